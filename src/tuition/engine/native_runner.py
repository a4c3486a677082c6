"""The native CPU runner: one C++ call computes a whole step over packed weights (`kernels/`, optional).

In: a `ModelFolder` and settings.  Out: a `Runner`. Imported only where `tuition_kernels` is installed.

Every row gets the same bits alone, in any batch, and however its prompt was cut, in every precision and at no
price (kernels/src/kernels.hpp says how), so `deterministic` has nothing to switch on here.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tuition_kernels

from tuition.core.errors import CapacityError, ModelError, ShapeError
from tuition.core.progress import Progress, SilentProgress
from tuition.core.units import format_bytes, format_count
from tuition.core.workspace import open_workspace
from tuition.engine.batch import StepBatch
from tuition.engine.draw_state import DrawState
from tuition.engine.native_variants import NativeVariants
from tuition.engine.native_weights import (
    Formats,
    PackedWeights,
    buffer_digest,
    choose_formats,
    kernel_config,
    load_packed,
    padded_angles,
)
from tuition.engine.request import Sampling
from tuition.engine.sampler import PoisonedLogitsError
from tuition.engine.settings import EngineSettings
from tuition.engine.variants import Variant
from tuition.model.folder import ModelFolder
from tuition.plan.memory import available_memory, cache_blocks, require_model
from tuition.runtime.cores import usable_cores
from tuition.spec.shape import ModelShape

BLOCK_STEP = 32
"""Blocks of the cache are whole tiles of the matrix unit."""

AUTO_CACHE_SHARE = 0.3
"""Of the free memory, what an unnamed cache may take: a CPU's memory belongs to others too."""

_HEAD_STEP = 32
"""head_dim is padded to this in the cache."""

_NAMES = {
    "amx": "AMX",
    "avx512bf16": "AVX-512 with BF16",
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "portable": "portable C++",
}


def refusal(shape: ModelShape, settings: EngineSettings) -> str | None:
    """Why the native runner does not compute this model here, in words; None if it does."""
    try:
        kernel_config(shape, Formats("float32", "float32", ""))
    except ValueError as error:
        return f"the native runner does not compute this shape ({error})"
    if settings.runner == "auto" and tuition_kernels.available_isas()[0] == "portable":
        return "this processor has no AVX2, AVX-512 or AMX, and without them torch is faster"
    return None


class NativeRunner:
    """Executes packed weights over a block cache that it owns. One thread calls it."""

    def __init__(
        self, shape: ModelShape, packed: PackedWeights, *, num_blocks: int, block_size: int = BLOCK_STEP,
        threads: int | None = None, isa: str = "auto", pin: bool = False,
    ) -> None:  # fmt: skip
        """`isa`: amx, avx512bf16, avx512, avx2 or portable to force one.

        `pin`: keep worker threads on their cores.

        Raises: ValueError for an instruction set that this machine lacks or sizes that do not fit.
        """
        self.shape, self.num_blocks, self.block_size = shape, num_blocks, block_size
        self.weight_bytes = len(packed.buffer)
        self.kv_bytes_per_value = 4 if packed.formats.body == "float32" else 2
        self.threads = threads or usable_cores()
        self._packed: PackedWeights | None = packed
        (cos, sin), *others = (padded_angles(shape, rope) for rope in shape.ropes or (shape.rope,))
        local = {"local_cos": others[0][0], "local_sin": others[0][1]} if others else {}
        self._model: tuition_kernels.Model | None = tuition_kernels.Model(
            packed.config, packed.buffer, cos, sin, num_blocks=num_blocks, block_size=block_size,
            num_threads=self.threads, isa=isa, pin=pin, **local,
        )  # fmt: skip
        self._variants = NativeVariants(self._model, shape)
        self.isa = self._model.isa
        self.cache_bytes = self._model.cache_bytes
        body, head = packed.formats.body, packed.formats.head
        self.precision = body if body == head else f"{body} with an {head} head"
        self.name = f"native {self.precision} ({_NAMES[self.isa]})"

    @classmethod
    def load(
        cls, folder: ModelFolder, settings: EngineSettings, progress: Progress | None = None, *,
        cache_folder: Path | None = None, formats: Formats | None = None,
    ) -> "NativeRunner":  # fmt: skip
        """Pack the weights, or take them from the cache, and take memory for keys and values.

        `cache_folder`: where packed weights are kept; None means the workspace's cache.
        `formats`: instead of what `settings.precision` means.
        Raises: SettingsError, CapacityError, ModelError.
        """
        progress = progress or SilentProgress()
        formats = formats or choose_formats(folder, settings.precision)
        free = available_memory()
        require_model(folder.shape, formats.body, free)
        packed = load_packed(folder, formats, cache_folder or open_workspace().cache, progress)
        block_size = -(-settings.block_size // BLOCK_STEP) * BLOCK_STEP
        num_blocks = room_for_blocks(folder.shape, settings, formats, block_size)
        runner = cls(
            folder.shape, packed, num_blocks=num_blocks, block_size=block_size, threads=settings.threads
        )
        progress.detail(runner.describe())
        return runner

    def describe(self) -> str:
        """One line: what computes, from how many bytes, and how large the cache is."""
        packed = self._opened()
        tokens = format_count(self.num_blocks * self.block_size)
        return (
            f"{self.name} on {self.threads} threads, {format_bytes(len(packed.buffer))} of weights; "
            f"cache for {tokens} tokens in {self.num_blocks:,} blocks, "
            f"at most {format_bytes(self.cache_bytes)}; {packed.formats.reason}"
        )

    def forward(self, batch: StepBatch) -> np.ndarray:
        """Logits of the wanted rows, (num_wanted, vocab) float32; see `batch.Runner`. Raises: ValueError."""
        if self._model is None:
            raise ValueError("the runner is closed")
        return self._model.step(
            batch.token_ids, batch.positions, batch.starts, batch.context_lengths, batch.block_tables,
            batch.logit_rows, *self._slots(batch),
        )  # fmt: skip

    def _slots(self, batch: StepBatch) -> tuple[np.ndarray, ...]:
        """The last argument of a step, where rows have variants."""
        return (self._variants.slots(batch),) if batch.variants else ()

    def decode(
        self, batch: StepBatch, num_steps: int, draws: Sequence[DrawState], seconds: float
    ) -> np.ndarray:
        """See `batch.BurstRunner`. Raises: ValueError."""
        if self._model is None:
            raise ValueError("the runner is closed")
        chosen = np.empty((num_steps, len(draws)), np.int32)
        if len(draws) == 1:
            one = draws[0]
            stops, sampling, seeds = one.stop_array, one.sampling_array, one.seed_array
            stop_starts = np.array((0, len(stops)), np.int32)
        else:
            stops = np.concatenate([one.stop_array for one in draws])
            sampling = np.concatenate([one.sampling_array for one in draws])
            seeds = np.concatenate([one.seed_array for one in draws])
            stop_starts = np.cumsum([0, *(len(one.stop_array) for one in draws)], dtype=np.int32)
        num_taken = self._model.decode(
            batch.token_ids, batch.positions, batch.starts, batch.context_lengths, batch.block_tables,
            batch.logit_rows, stop_starts, stops, sampling, seeds, chosen, seconds, *self._slots(batch),
        )  # fmt: skip
        return chosen[:num_taken]

    def draw(self, row: np.ndarray, sampling: Sampling, at: float) -> int:
        """See `batch.BurstRunner`. Raises: PoisonedLogitsError."""
        token_id = tuition_kernels.draw(
            row, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, at, self.isa
        )
        if token_id < 0:
            raise PoisonedLogitsError(f"the largest logit is {row.max()}")
        return token_id

    def add_variant(self, name: str, variant: Variant) -> None:
        """See `batch.VariantRunner`. Raises: SettingsError."""
        self._opened()
        self._variants.add(name, variant)

    def remove_variant(self, name: str) -> None:
        """See `batch.VariantRunner`; nothing once it is closed."""
        if self._model is not None:
            self._variants.remove(name)

    def hurry(self, on: bool) -> None:
        """See `batch.BurstRunner`; nothing once it is closed."""
        model = self._model
        if model is not None:
            model.hurry(on)

    def weights_digest(self) -> str:
        """The digest of the tensors that this runner serves (see model/digest), proven at every call.

        The tensors themselves are gone: what is in memory is their packed form, rounded where the precision
        rounds. So the packed bytes are hashed as they are now and must have the digest recorded when they
        were packed; beside it the digest of the tensors they were packed from was recorded, and that is
        returned. It says which weights were packed, and that no bit of the packing changed since; that the
        packing is right is shown by tests, not by the digest.
        Raises: ModelError if a bit in memory changed.
        """
        packed = self._opened()
        if buffer_digest(packed.buffer) != packed.packed_digest:
            raise ModelError(
                "weights in memory",
                "changed since they were packed",
                way_out="restart the server; test the memory",
            )
        return packed.source_digest

    def swap_weights(self, model: ModelFolder) -> None:
        """See `batch.Runner`. The new weights are packed beside the old ones before these are overwritten.

        Raises: ShapeError, ModelError.
        """
        old = self._opened()
        if model.shape != self.shape:
            raise ShapeError("swap_weights", wanted=str(self.shape), got=model.shape)
        new = load_packed(model, old.formats, None, SilentProgress())
        old.buffer[:] = new.buffer  # the kernels keep pointers into the old buffer
        self._packed = replace(new, buffer=old.buffer)

    def close(self) -> None:
        """Free weights and cache; the runner cannot be used afterwards."""
        self._model = None
        self._packed = None
        del self._variants  # it holds the model, too

    def _opened(self) -> PackedWeights:
        if self._packed is None:
            raise ValueError("the runner is closed")
        return self._packed


def room_for_blocks(shape: ModelShape, settings: EngineSettings, formats: Formats, block_size: int) -> int:
    """Blocks of the cache: what was asked for, else a share of the free memory. Raises: CapacityError."""
    width = 4 if formats.body == "float32" else 2
    padded = -(-shape.head_dim // _HEAD_STEP) * _HEAD_STEP
    free, limit = available_memory(), settings.cache_limit()
    bytes_per_value = -(-width * padded // shape.head_dim)
    if limit is None:
        contexts = -(-shape.context_length // block_size)
        one = block_size * 2 * shape.num_layers * shape.num_kv_heads * padded * width
        limit = max(int(free * AUTO_CACHE_SHARE), contexts * one)
    blocks = cache_blocks(
        shape, block_size=block_size, max_batch=settings.max_batch, token_budget=settings.token_budget,
        bytes_per_value=bytes_per_value, free=free, limit=limit,
    ).num_blocks  # fmt: skip
    if blocks < 1:
        raise CapacityError("the cache", need=1, free=0, unit="blocks", way_out="raise cache_bytes")
    return blocks
