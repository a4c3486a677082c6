"""Variants of packed weights, for the native runner.

In: a checked `Variant`.  Out: its slot in the kernels, and the slot of each row of a step.
"""

import importlib
from collections.abc import Iterator

import numpy as np
import tuition_kernels

from tuition.core.errors import SettingsError
from tuition.engine.batch import StepBatch
from tuition.engine.native_weights import padded_head
from tuition.engine.variants import LowRank, Variant
from tuition.spec.shape import ModelShape

Pair = tuple[int, str, np.ndarray, np.ndarray]
"""layer, matrix, down (rank, inputs), up (outputs, rank)."""


class NativeVariants:
    """The variants of one native model, by name. Called by the thread that calls the model."""

    def __init__(self, model: tuition_kernels.Model, shape: ModelShape) -> None:
        self._model, self._shape = model, shape
        self._slots: dict[str, int] = {}

    def add(self, name: str, variant: Variant) -> None:
        """Take a variant under a new name. Raises: SettingsError where the kernels are too old for it."""
        if not hasattr(self._model, "add_variant"):
            raise SettingsError(
                "runner",
                got="native, with installed kernels that compute no variants",
                wanted="torch, or kernels of this version (pip install ./kernels)",
            )
        self._slots[name] = self._model.add_variant(list(_pairs(variant, self._shape)))

    def remove(self, name: str) -> None:
        """Forget a variant."""
        self._model.remove_variant(self._slots.pop(name))

    def slots(self, batch: StepBatch) -> np.ndarray:
        """(num_tokens,) int32: the slot of each row's variant, -1 for none."""
        slots = np.full(len(batch.token_ids), -1, np.int32)
        for rows in batch.variants:
            slots[rows.begin : rows.end] = self._slots[rows.name]
        return slots


def _pairs(variant: Variant, shape: ModelShape) -> Iterator[Pair]:
    """The changes with heads filled up to the size that the kernels take, as the weights are."""
    for name, change in variant.changes.items():
        _, layer, _, matrix, _ = name.split(".")  # layers.0.attention.query.weight
        filled = change if padded_head(shape) == shape.head_dim else _with_padded_heads(name, change, shape)
        down, up = (np.ascontiguousarray(part, np.float32) for part in (filled.down, filled.up))
        yield int(layer), matrix, down, up


def _with_padded_heads(name: str, change: LowRank, shape: ModelShape) -> LowRank:
    """The rows of query, key and value, and the columns of output, are those of heads."""
    torch = importlib.import_module("torch")  # only needed here, as for packing such weights
    fill = importlib.import_module("tuition.engine.native_packing").with_padded_heads
    if name.endswith("output.weight"):
        return LowRank(fill(name, torch.tensor(change.down), shape).numpy(), change.up)
    return LowRank(change.down, fill(name, torch.tensor(change.up), shape).numpy())
