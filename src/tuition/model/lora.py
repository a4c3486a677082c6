"""Adapters on a decoder: trained beside a frozen base, and merged into it.

In: a model and `AdapterSettings`.  Out: a `Decoder` with a frozen, packed base and a trainable A and B at the
chosen matrices; from it the `Adapter`; and the merged weights of base and adapter.
Source: LoRA, arXiv:2106.09685; frozen matrices as integers: QLoRA, arXiv:2305.14314, section 3.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from tuition.core.errors import ShapeError
from tuition.model.adapter import Adapter
from tuition.model.adapter_settings import AdapterSettings, adaptable
from tuition.model.decoder import Decoder, Linear
from tuition.model.folder import ModelFolder
from tuition.model.frozen import Frozen, FrozenEmbedding, FrozenLinear, LowRank


def load_with_lora(
    source: ModelFolder,
    settings: AdapterSettings,
    generator: torch.Generator | None = None,
    frozen: Frozen = "float32",
    begins_with: Adapter | None = None,
) -> Decoder:
    """A decoder with the frozen weights of `source`, packed one at a time, and a new adapter, or the one that
    it `begins_with`, whose ranks and matrices count then.

    The caller checks before that it fits in memory. Raises: ModelError; SettingsError for matrices
    that the model lacks.
    """
    with torch.device("meta"):
        decoder = Decoder(source.shape)
    packed = {*adaptable(source.shape)}
    for name, tensor in source.tensors():
        parent, _, last = name.rpartition(".")
        module = decoder.get_submodule(parent)
        if name in packed:
            bias = getattr(module, "bias", None)
            _replace(decoder, name, FrozenLinear(tensor, frozen, bias))
        elif isinstance(module, FrozenLinear):
            module.bias = nn.Parameter(tensor.to(torch.float32, copy=True), requires_grad=False)
        else:
            setattr(module, last, nn.Parameter(_held(name, tensor, frozen), requires_grad=False))
    decoder.set_submodule("embedding", FrozenEmbedding(decoder.embedding.weight.detach()))
    source.release()
    if begins_with is not None:
        return _with_known_pairs(decoder, settings, begins_with)
    return _with_pairs(decoder, settings, generator)


def add_lora(
    decoder: Decoder,
    settings: AdapterSettings,
    generator: torch.Generator | None = None,
    frozen: Frozen = "float32",
) -> None:
    """Freeze and pack a decoder, and give it a new adapter. B begins at 0, so the outputs are those of the
    base, up to the rounding of `frozen`.

    Matrices of the layers have the format `frozen`; so do embedding and head, but in bfloat16 if it is int8.
    Norms and biases stay float32. Raises: SettingsError for matrices that the decoder lacks.
    """
    for name in adaptable(decoder.shape):
        module = decoder.get_submodule(name.removesuffix(".weight"))
        if not isinstance(module, Linear):
            raise ShapeError("add_lora", wanted="a decoder that is not frozen yet", got=type(module).__name__)
        _replace(decoder, name, FrozenLinear(module.weight.detach(), frozen, module.bias))
    for name, parameter in decoder.named_parameters():
        if not name.startswith("layers."):
            parameter.data = _held(name, parameter.data, frozen)
    decoder.set_submodule("embedding", FrozenEmbedding(decoder.embedding.weight.detach()))
    _with_pairs(decoder, settings, generator)


def adapter_of(decoder: Decoder, base: str | None = None, base_digest: str | None = None) -> Adapter:
    """The adapter of a decoder, copied. Raises: ShapeError where it has none."""
    known: dict[str, AdapterSettings] = {}
    pairs = {}
    for name in adaptable(decoder.shape):
        module = decoder.get_submodule(name.removesuffix(".weight"))
        if isinstance(module, FrozenLinear) and module.pair is not None:
            known[name] = module.pair.settings
            pairs[name] = (_array(module.pair.down), _array(module.pair.up))
    if not known:
        raise ShapeError("adapter_of", wanted="a decoder with an adapter", got="one without")
    ((settings, _),) = Counter(known.values()).most_common(1)
    alphas = {name: own.alpha for name, own in known.items() if own.alpha != settings.alpha}
    return Adapter(settings, pairs, alphas, base=base, base_digest=base_digest)


def merged_tensors(
    base: ModelFolder | Mapping[str, Tensor], adapter: Adapter
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the base under our name, one at a time, the adapted ones in float32 with B A added.
    Raises: ShapeError where the adapter does not fit."""
    if isinstance(base, ModelFolder):
        adapter.check(base.shape)
        named = base.tensors()
    else:
        named = iter(base.items())
    for name, tensor in named:
        if name in adapter.pairs:
            down, up = (torch.from_numpy(part).double() for part in adapter.pairs[name])
            yield name, (tensor.double() + (up @ down) * adapter.scale_of(name)).float()
        else:
            yield name, tensor


def _with_pairs(decoder: Decoder, settings: AdapterSettings, generator: torch.Generator | None) -> Decoder:
    decoder.requires_grad_(False)
    for name in settings.tensor_names(decoder.shape):
        module = _frozen(decoder, name)
        module.pair = LowRank(module.in_features, module.out_features, settings)
        # A is drawn as peft draws it and B is zero, so that training begins at the base
        bound = 1 / math.sqrt(module.in_features)
        module.pair.down.data.uniform_(-bound, bound, generator=generator)
    return decoder


def _with_known_pairs(decoder: Decoder, settings: AdapterSettings, adapter: Adapter) -> Decoder:
    """Raises: ShapeError where the adapter does not fit."""
    adapter.check(decoder.shape)
    decoder.requires_grad_(False)
    for name, (down, up) in adapter.pairs.items():
        alpha = adapter.alphas.get(name, adapter.settings.alpha)
        module, own = _frozen(decoder, name), replace(settings, rank=len(down), alpha=alpha)
        module.pair = LowRank(module.in_features, module.out_features, own)
        module.pair.down.data.copy_(torch.from_numpy(down))
        module.pair.up.data.copy_(torch.from_numpy(up))
    return decoder


def _frozen(decoder: Decoder, name: str) -> FrozenLinear:
    module = decoder.get_submodule(name.removesuffix(".weight"))
    if not isinstance(module, FrozenLinear):
        raise ShapeError(name, wanted="a frozen matrix", got=type(module).__name__)
    return module


def _replace(decoder: Decoder, name: str, module: nn.Module) -> None:
    decoder.set_submodule(name.removesuffix(".weight"), module)


def _held(name: str, tensor: Tensor, frozen: Frozen) -> Tensor:
    """A tensor that is not one of the packed matrices, as a copy in the format that it is held in."""
    is_table = tensor.dim() == 2 and not name.startswith("layers.")
    dtype = torch.bfloat16 if is_table and frozen != "float32" else torch.float32
    return tensor.detach().to(dtype, copy=True)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()
