"""Adapters: pairs of low-rank matrices that are added to matrices of a base (LoRA, arXiv:2106.09685). No
torch.

In: settings (`adapter_settings`), and a pair of arrays for each adapted matrix under our tensor name.
Out: a checked `Adapter`.
`model/adapter_folder` reads and writes it as files, `model/lora` trains and merges it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tuition.core.errors import ShapeError
from tuition.model.adapter_settings import AdapterSettings, adaptable
from tuition.spec.shape import ModelShape

Pair = tuple[np.ndarray, np.ndarray]
"""A (rank, inputs) and B (outputs, rank), float32, without the scale."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """The matrices of an adapter, and the base that they belong to."""

    settings: AdapterSettings
    pairs: Mapping[str, Pair]
    """By tensor name, like `layers.0.attention.query.weight`."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """By tensor name: alpha of a matrix that differs from the settings (peft's alpha_pattern)."""
    base: str | None = None
    """`name@version` of the base, or its name elsewhere."""
    base_digest: str | None = None
    """Digest of the base's weights (see model/digest); None if the adapter names none."""

    def scale_of(self, name: str) -> float:
        """The factor of the product B A of this matrix."""
        return self.settings.scale_for(len(self.pairs[name][0]), self.alphas.get(name))

    @property
    def num_parameters(self) -> int:
        return sum(down.size + up.size for down, up in self.pairs.values())

    def check(self, shape: ModelShape) -> None:
        """Raises: ShapeError, as `check_shapes` and `check_numbers`."""
        self.check_shapes(shape)
        self.check_numbers()

    def check_shapes(self, shape: ModelShape) -> None:
        """Raises: ShapeError if the base has no such matrix, or if a shape differs."""
        shapes, known = shape.tensor_shapes(), {*adaptable(shape)}
        for name, (down, up) in self.pairs.items():
            if name not in known:
                raise ShapeError("adapter", wanted="matrices of attention and feed-forward", got=name)
            (outputs, inputs), rank = shapes[name], len(down)
            if rank == 0 or down.shape != (rank, inputs) or up.shape != (outputs, rank):
                raise ShapeError(
                    f"adapter of another base, {name}",
                    wanted=f"A (rank, {inputs}) and B ({outputs}, rank)",
                    got=f"{down.shape} and {up.shape}",
                )

    def check_numbers(self) -> None:
        """Raises: ShapeError where a number is not finite, or scale * B A may not fit in float32."""
        for name, (down, up) in self.pairs.items():
            if not (np.isfinite(down).all() and np.isfinite(up).all()):
                raise ShapeError(f"adapter, {name}", wanted="finite numbers", got="a NaN or an infinity")
            scale = self.scale_of(name)
            largest = scale * len(down) * float(np.abs(down).max()) * float(np.abs(up).max())
            if not largest < float(np.finfo(np.float32).max):
                wanted = "alpha and numbers whose products fit in float32"
                raise ShapeError(f"adapter, {name}", wanted=wanted, got=f"up to {largest:.3g}")

    def digest(self) -> str:
        """SHA-256 over names, scales, shapes and values as float32, 64 hex digits."""
        found = hashlib.sha256()
        for name in sorted(self.pairs):
            down, up = self.pairs[name]
            found.update(f"{name} {self.scale_of(name)!r} {down.shape} {up.shape}\n".encode())
            for part in (down, up):
                found.update(np.ascontiguousarray(part, np.float32).data)
        return found.hexdigest()
