"""A frozen base with an adapter: exact gradients, nothing computed or kept for what does not change."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tuition.core.errors import SettingsError, ShapeError
from tuition.model.adapter_settings import AdapterSettings
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.model.frozen import Frozen, FrozenLinear, LowRank, dropout_seeded
from tuition.model.lora import adapter_of, add_lora, load_with_lora, merged_tensors
from tuition.model.memory import model_in_memory
from tuition.spec.shape import ModelShape

INPUTS, OUTPUTS, RANK = 24, 40, 3


def matrix(frozen: Frozen, dropout: float = 0.0, *, bias: bool = True) -> FrozenLinear:
    """With an adapter whose B is not zero."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator)
    made = FrozenLinear(weight, frozen, torch.randn(OUTPUTS, generator=generator) if bias else None)
    made.pair = LowRank(INPUTS, OUTPUTS, AdapterSettings(rank=RANK, alpha=5.0, dropout=dropout))
    for part in made.pair.parameters():
        part.data.normal_(generator=generator)
    return made


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(2, 7, INPUTS, generator=torch.Generator().manual_seed(2))
    return drawn.to(dtype).requires_grad_()


def reference(layer: FrozenLinear, given: Tensor, kept: Tensor | float = 1.0) -> Tensor:
    """The same in float64, by autograd alone."""
    assert layer.pair is not None
    down, up = layer.pair.down.double(), layer.pair.up.double()
    bias = 0.0 if layer.bias is None else layer.bias.double()
    return given @ layer.value().double().t() + bias + (5.0 / RANK) * ((given * kept) @ down.t()) @ up.t()


@pytest.mark.parametrize("frozen", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("bias", [True, False])
def test_product_and_gradients_are_those_of_float64(frozen: Frozen, bias: bool) -> None:
    layer, given = matrix(frozen, bias=bias), inputs()
    assert layer.pair is not None
    wide = given.detach().double().requires_grad_()
    weights = torch.randn(2, 7, OUTPUTS, generator=torch.Generator().manual_seed(3))
    parameters = [layer.pair.down, layer.pair.up]
    got, wanted = layer(given), reference(layer, wide)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-4)  # float32 sums of 24 products
    ours = torch.autograd.grad((got * weights).sum(), [given, *parameters])
    theirs = torch.autograd.grad((wanted * weights).sum(), [wide, *parameters])
    for mine, oracle in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), oracle.double(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("frozen", ["bfloat16", "int8"])
def test_under_autocast_it_computes_in_bfloat16(frozen: Frozen) -> None:
    layer, given = matrix(frozen), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(given)
    assert got.dtype == torch.bfloat16
    wanted = reference(layer, given.detach().double())
    spread = wanted.std().item()
    torch.testing.assert_close(got.double(), wanted, rtol=2**-6, atol=0.02 * spread)  # 8 bits each


def test_dropped_inputs_are_drawn_by_seed_and_their_gradients_fit() -> None:
    layer, given = matrix("float32", dropout=0.4), inputs()
    plain = layer(given)
    with dropout_seeded(7):
        first = layer(given)
        second = layer(given)
    with dropout_seeded(7):
        again = layer(given)
    with dropout_seeded(8):
        other = layer(given)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    torch.testing.assert_close(plain.double(), reference(layer, given.double()), rtol=1e-5, atol=1e-4)
    kept = (torch.rand(given.shape, generator=torch.Generator().manual_seed(7)) >= 0.4) / 0.6
    wide = given.detach().double().requires_grad_()
    wanted = reference(layer, wide, kept.double())
    torch.testing.assert_close(first.double(), wanted, rtol=1e-5, atol=1e-4)
    assert layer.pair is not None
    parameters = [layer.pair.down, layer.pair.up]
    ours = torch.autograd.grad(first.sum(), [given, *parameters])
    theirs = torch.autograd.grad(wanted.sum(), [wide, *parameters])
    for mine, oracle in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), oracle.double(), rtol=1e-5, atol=1e-4)


def test_integers_are_within_half_a_step_of_the_weights() -> None:
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(1))
    weight[3] = 0.0
    before = weight.clone()
    layer = FrozenLinear(weight, "int8")
    assert layer.weight.dtype == torch.int8
    steps = before.abs().amax(dim=1, keepdim=True) / 127
    assert ((layer.value() - before).abs() <= steps * 0.5001).all()
    assert torch.equal(weight, before)  # the source is not rounded


def decoder_of(shape: ModelShape) -> Decoder:
    return Decoder(shape).initialize(std=0.1, generator=torch.Generator().manual_seed(0))


def logits(decoder: Decoder, seq_len: int = 12) -> Tensor:
    ids = torch.randint(0, 250, (2, seq_len), generator=torch.Generator().manual_seed(4))
    return decoder.logits(decoder(ids, DenseContext.of_length(seq_len)))


@pytest.mark.parametrize(("frozen", "error"), [("float32", 1e-6), ("bfloat16", 0.02), ("int8", 0.05)])
def test_it_begins_at_its_base(tiny_shape: ModelShape, frozen: Frozen, error: float) -> None:
    """Up to the rounding of the frozen weights, relative to the spread of the logits."""
    base = decoder_of(tiny_shape)
    wanted = logits(base).detach()
    folder = model_in_memory(tiny_shape, base.state_dict(), lambda: pytest.fail("no tokenizer is needed"))
    loaded = load_with_lora(folder, AdapterSettings(rank=4), frozen=frozen)
    add_lora(base, AdapterSettings(rank=4), frozen=frozen)
    for decoder in (base, loaded):
        difference = (logits(decoder) - wanted).std() / wanted.std()
        assert difference < error
    trained = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in base.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 7 * tiny_shape.num_layers
    assert all(".pair." in name for name in trained)


def test_what_is_merged_computes_what_was_trained(tiny_shape: ModelShape) -> None:
    base = decoder_of(tiny_shape)
    tensors = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    add_lora(base, AdapterSettings(rank=4, scale="rank-stabilized"), torch.Generator().manual_seed(1))
    for name, parameter in base.named_parameters():
        if name.endswith("pair.up"):
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    merged = Decoder(tiny_shape)
    merged.load_state_dict(dict(merged_tensors(tensors, adapter_of(base))))
    torch.testing.assert_close(logits(merged), logits(base), rtol=0, atol=1e-4)  # order of sums


@contextmanager
def kept_bytes() -> Iterator[list[int]]:
    """Bytes of activations that autograd keeps; each memory counted once."""
    seen: dict[int, int] = {}
    total = [0]

    def keep(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf and tensor.untyped_storage().data_ptr() not in seen:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            total[0] = sum(seen.values())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield total


def test_nothing_is_kept_below_the_first_adapted_layer(tiny_shape: ModelShape) -> None:
    """Only the last layer has an adapter: the others are computed as without gradients."""
    decoder = decoder_of(tiny_shape)
    add_lora(decoder, AdapterSettings(rank=4))
    with kept_bytes() as every:
        logits(decoder)
    for layer in decoder.layers[:-1]:
        for module in layer.modules():
            if isinstance(module, FrozenLinear):
                module.pair = None
    with kept_bytes() as last:
        result = logits(decoder)
    assert last[0] < 0.6 * every[0]
    result.sum().backward()
    assert all(parameter.grad is None for parameter in decoder.parameters() if not parameter.requires_grad)


def test_matrices_are_chosen_by_name_and_a_wrong_one_is_refused(tiny_shape: ModelShape) -> None:
    settings = AdapterSettings(matrices=("q_proj", "mlp"))
    chosen = {name.split(".")[-2] for name in settings.tensor_names(tiny_shape)}
    assert chosen == {"query", "gate", "up", "down"}
    with pytest.raises(SettingsError, match="matrices: got 'lm_head', wanted names out of all-linear"):
        AdapterSettings(matrices=("lm_head",))
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"matrices": ()}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            AdapterSettings(**wrong)  # type: ignore[arg-type]


def test_an_adapter_is_added_once(tiny_shape: ModelShape) -> None:
    decoder = decoder_of(tiny_shape)
    with pytest.raises(ShapeError, match="with an adapter"):
        adapter_of(decoder)
    add_lora(decoder, AdapterSettings(rank=2))
    with pytest.raises(ShapeError, match="not frozen yet"):
        add_lora(decoder, AdapterSettings(rank=2))
