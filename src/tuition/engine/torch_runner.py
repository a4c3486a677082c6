"""The portable runner: `model/decoder` over a block cache, on whatever torch computes on.

The same decoder is called in three ways: for any mixture of rows (`build_context`); for decodes only, in
buckets of fixed shapes that are replayed as CUDA graphs on CUDA (`torch_graphs`); and for deterministic steps
(`torch_pages`).
"""

from contextlib import nullcontext

import numpy as np
import torch

from tuition.core.errors import ModelError, SettingsError, ShapeError
from tuition.core.progress import Progress, SilentProgress
from tuition.core.units import format_bytes, format_count
from tuition.engine.batch import StepBatch
from tuition.engine.settings import EngineSettings
from tuition.engine.torch_cache import BlockCache, build_context
from tuition.engine.torch_graphs import DecodeGraphs
from tuition.engine.torch_pages import PAGE, Layout, compute_pages, rows_are_alike
from tuition.engine.torch_variants import TorchVariants
from tuition.engine.variants import Variant
from tuition.model.decoder import Decoder
from tuition.model.digest import weights_digest
from tuition.model.folder import ModelFolder
from tuition.model.load import load_decoder
from tuition.plan.memory import available_memory, block_bytes, cache_blocks, require_model
from tuition.runtime.device import Precision, choose_device, choose_precision, set_threads
from tuition.runtime.memory import free_bytes

AUTO_CACHE_SHARE = {"cpu": 0.3, "mps": 0.3, "cuda": 0.9}
"""Share of the free memory for a cache of size auto: other processes need a CPU's memory too."""


class TorchRunner:
    """Executes a `Decoder` over a block cache that it owns."""

    def __init__(
        self, decoder: Decoder, settings: EngineSettings, *, num_blocks: int | None = None, reason: str = ""
    ) -> None:
        """`num_blocks`: None takes what the machine has room for. Raises: CapacityError, SettingsError."""
        weight = decoder.embedding.weight
        self.decoder = decoder.eval().requires_grad_(False)
        self._device, self._dtype = weight.device, weight.dtype
        self.shape = decoder.shape
        self.block_size = settings.block_size
        self.weight_bytes = sum(
            parameter.numel() * parameter.element_size()
            for name, parameter in decoder.named_parameters()
            if self.shape.tied_head
            or name != "embedding.weight"  # of an embedding alone, a step reads few rows
        )
        self.kv_bytes_per_value = self._dtype.itemsize
        self.num_blocks = num_blocks or room_for_blocks(decoder, settings)
        self.cache = BlockCache(self.shape, self.num_blocks, self.block_size, self._dtype, self._device)
        self.layout: Layout | None = None
        if settings.deterministic:
            with torch.inference_mode():
                self.layout = "packed" if rows_are_alike(decoder, self._device) else "alone"
        self._variants: TorchVariants | None = None
        """None until the first variant is added."""
        graphs = self._device.type == "cuda" and not settings.deterministic
        self.graphs = DecodeGraphs(decoder, self.cache, settings.max_batch) if graphs else None
        mode = f", deterministic ({self.layout} pages)" if self.layout else ""
        self.name = f"torch {str(self._dtype).removeprefix('torch.')} on {self._device}{mode}"
        self.reason = reason
        """Why this device and precision, as text."""

    @classmethod
    def load(
        cls, folder: ModelFolder, settings: EngineSettings, progress: Progress | None = None
    ) -> "TorchRunner":
        """Load weights and take memory for the cache. Raises: SettingsError, CapacityError, ModelError."""
        if settings.precision in ("int8", "int4"):
            raise SettingsError(
                "precision",
                got=settings.precision,
                wanted="float32, bf16 or auto with the torch runner (int8 and int4 need the native one)",
            )
        progress = progress or SilentProgress()
        device = choose_device(settings.device)
        if device.type == "cpu":
            set_threads(settings.threads)
        if settings.precision == "auto" and device.type == "cpu":
            # on a CPU torch rounds products of bfloat16 to bfloat16: logits less than an eighth apart become
            # ties, and greedy replies of a small model change
            precision = Precision(
                torch.float32, "float32, since bf16 would round the logits; bf16 can be asked for"
            )
        else:
            wanted = "bfloat16" if settings.precision == "bf16" else settings.precision
            precision = choose_precision(wanted, device)
        free = available_memory(free_bytes(device))
        require_model(folder.shape, "bf16" if precision.is_autocast else "float32", free)
        with progress.task("load weights"):
            decoder = load_decoder(folder, precision.dtype, device)
        runner = cls(decoder, settings, reason=precision.reason)
        progress.detail(runner.describe())
        return runner

    def describe(self) -> str:
        """One line: what computes, and how large the cache is."""
        tokens = format_count(self.num_blocks * self.block_size)
        return (
            f"{self.name}; cache for {tokens} tokens in {self.num_blocks:,} blocks, "
            f"at most {format_bytes(self.cache.num_bytes)}" + (f"; {self.reason}" if self.reason else "")
        )

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> np.ndarray:
        """Logits of the wanted rows, (num_wanted, vocab) float32; see `batch.Runner`."""
        if self.layout is not None:
            logits = compute_pages(self.decoder, self.cache, batch, self.layout, self._device, self._variants)
        elif self.graphs is not None and not batch.variants and self.graphs.takes(batch):
            logits = self.graphs.compute(batch)
        else:
            context = build_context(self.cache, batch, self._device)
            tokens = torch.from_numpy(batch.token_ids).to(self._device)[None]
            stretches = [(one.name, slice(one.begin, one.end)) for one in batch.variants]
            with nullcontext() if self._variants is None else self._variants.rows(stretches):
                hidden = self.decoder(tokens, context)[0]
            if len(batch.logit_rows) < len(batch.token_ids):
                hidden = hidden[torch.from_numpy(batch.logit_rows).to(self._device)]
            logits = self.decoder.logits(hidden)
        return logits.to("cpu", torch.float32).numpy()

    def add_variant(self, name: str, variant: Variant) -> None:
        """See `batch.VariantRunner`. Raises: SettingsError."""
        if self._variants is None:
            self._variants = TorchVariants(self.decoder)
        self._variants.add(name, variant)
        if self.layout != "packed":
            return
        everywhere = [(name, torch.ones(PAGE, dtype=torch.bool, device=self._device))]
        with torch.inference_mode(), self._variants.rows(everywhere):
            alike = rows_are_alike(self.decoder, self._device)
        if not alike:
            self._variants.remove(name)
            raise SettingsError(
                "deterministic",
                got=True,
                wanted=f"False for the variant {name!r}: its products depend on a row's place in the step",
            )

    def remove_variant(self, name: str) -> None:
        """See `batch.VariantRunner`."""
        if self._variants is not None:
            self._variants.remove(name)

    @torch.no_grad()
    def swap_weights(self, model: ModelFolder) -> None:
        """See `batch.Runner`. In place, so that recorded graphs compute with the new weights.

        Old and new weights are both in memory for a moment.

        Raises: ShapeError; ModelError, also for a weight that is a NaN or an infinity.
        """
        if model.shape != self.shape:
            raise ShapeError("swap_weights", wanted=str(self.shape), got=model.shape)
        new = {}
        for name, tensor in model.tensors():
            new[name] = tensor.to(self._device, self._dtype, copy=True)
            if not new[name].isfinite().all():
                problem = f"holds a NaN or an infinity in {name}"
                raise ModelError(model.path, problem, way_out="take weights of another step or version")
        for name, parameter in self.decoder.named_parameters():
            parameter.copy_(new[name])

    def weights_digest(self) -> str:
        """SHA-256 over the tensors as they are in memory now; equal to the file's where the dtype is
        lossless.
        """
        return weights_digest(self.decoder.named_parameters())

    def close(self) -> None:
        """Free weights and cache; the runner cannot be used afterwards."""
        self.graphs = None
        self.cache.keys.clear()
        self.cache.values.clear()
        self.decoder.to_empty(device="meta")


def room_for_blocks(decoder: Decoder, settings: EngineSettings) -> int:
    """Blocks of the cache: what was asked for, else a share of the free memory. Raises: CapacityError."""
    weight, shape = decoder.embedding.weight, decoder.shape
    free = available_memory(free_bytes(weight.device))
    limit = settings.cache_limit()
    if limit is None:
        one_context = -(-shape.context_length // settings.block_size)
        least = one_context * block_bytes(shape, settings.block_size, weight.element_size())
        limit = max(int(free * AUTO_CACHE_SHARE[weight.device.type]), least)
    return cache_blocks(
        shape,
        block_size=settings.block_size,
        max_batch=settings.max_batch,
        token_budget=settings.token_budget,
        bytes_per_value=weight.element_size(),
        free=free,
        limit=limit,
    ).num_blocks
