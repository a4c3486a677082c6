"""Variants of a model's weights: what is added to some matrices for the requests that name it. No torch.

In: pairs of thin matrices under our tensor names (LoRA, arXiv:2106.09685), or a trained `Adapter`.  Out: a
checked `Variant`, which a `batch.VariantRunner` takes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from tuition.core.errors import ShapeError
from tuition.model.adapter import Adapter
from tuition.spec.shape import ModelShape

LAST_PARTS = ("query.weight", "key.weight", "value.weight", "output.weight", "gate.weight", "up.weight",
              "down.weight")  # fmt: skip
"""Ends of the names of the matrices that a variant may change: those of attention and feed-forward."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change of one matrix: weight + up @ down."""

    down: np.ndarray
    """(rank, inputs) float32"""
    up: np.ndarray
    """(outputs, rank) float32, with every scale included."""


@dataclass(frozen=True, eq=False)
class Variant:
    """Changes by the name of the tensor, like `layers.0.attention.query.weight`; others stay as they are."""

    changes: Mapping[str, LowRank]
    base_digest: str | None = None
    """Digest of the weights that it was made for (see model/digest), where that is known: they are then not
    swapped under it."""

    @classmethod
    def of(cls, adapter: Adapter) -> Self:
        """What an adapter adds, its scales included."""
        changes = {}
        for name, (down, up) in adapter.pairs.items():
            scaled = np.asarray(up, np.float32) * np.float32(adapter.scale_of(name))
            changes[name] = LowRank(np.asarray(down, np.float32), scaled)
        return cls(changes, adapter.base_digest)

    def check(self, shape: ModelShape) -> None:
        """Raises: ShapeError where a name or a shape is none of the model's, or a number is not finite."""
        shapes = shape.tensor_shapes()
        for name, change in self.changes.items():
            if name not in shapes or not name.endswith(LAST_PARTS):
                raise ShapeError(
                    "variant", wanted="matrices of attention and feed-forward by their names", got=name
                )
            outputs, inputs = shapes[name]
            rank = len(change.down)
            if rank == 0 or change.down.shape != (rank, inputs) or change.up.shape != (outputs, rank):
                raise ShapeError(
                    f"variant, {name}",
                    wanted=f"down (rank, {inputs}) and up ({outputs}, rank) with a rank of at least 1",
                    got=f"{change.down.shape} and {change.up.shape}",
                )
            if not (np.isfinite(change.down).all() and np.isfinite(change.up).all()):
                raise ShapeError(f"variant, {name}", wanted="finite numbers", got="a NaN or an infinity")

    def digest(self) -> bytes:
        """SHA-256 over names, shapes and values, 32 bytes; the order of the names does not matter."""
        found = hashlib.sha256()
        for name in sorted(self.changes):
            for part in (self.changes[name].down, self.changes[name].up):
                found.update(f"{name} {part.shape}\n".encode())
                found.update(np.ascontiguousarray(part, np.float32).data)
        return found.digest()
