"""Adapters: thin matrices that are added to some matrices of a base (LoRA, arXiv:2106.09685). No torch.

In: settings, and a pair of arrays for each adapted matrix under our tensor name.  Out: a checked `Adapter`.
`model/adapter_folder` reads and writes it as files, `model/lora` trains and merges it.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tuition.core.errors import SettingsError, ShapeError
from tuition.spec.shape import ModelShape

Scale = Literal["plain", "rank-stabilized"]
Pair = tuple[np.ndarray, np.ndarray]
"""A (rank, inputs) and B (outputs, rank), float32, without the scale."""

_ATTENTION = ("query", "key", "value", "output")
_MLP = ("gate", "up", "down")
GROUPS = {"all-linear": _ATTENTION + _MLP, "attention": _ATTENTION, "mlp": _MLP}
"""Names for several matrices of a layer at once; `all-linear` is peft's word."""
_NAMES_OF_PEFT = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output",
                  "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}  # fmt: skip


@dataclass(frozen=True)
class AdapterSettings:
    """LoRA: weight + scale * B A, where only A and B are trained."""

    rank: int = 16
    """Rows of A and columns of B."""
    alpha: float = 32.0
    """Numerator of the scale."""
    dropout: float = 0.0
    """Share of the inputs of A that are set to zero during training."""
    scale: Scale = "plain"
    """plain: alpha / rank. rank-stabilized: alpha / sqrt(rank), arXiv:2312.03732."""
    matrices: tuple[str, ...] = ("all-linear",)
    """Matrices of each layer: all-linear, attention, mlp, or names such as query value (peft's q_proj v_proj
    are the same)."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SettingsError("rank", got=self.rank, wanted="1 or more")
        if not 0 < self.alpha < math.inf:
            raise SettingsError("alpha", got=self.alpha, wanted="a finite number above 0")
        if not 0 <= self.dropout < 1:
            raise SettingsError("dropout", got=self.dropout, wanted="0 or more, below 1")
        if not self.matrices:
            raise SettingsError("matrices", got=self.matrices, wanted="at least one, such as all-linear")
        known = {*GROUPS, *GROUPS["all-linear"], *_NAMES_OF_PEFT}
        for name in self.matrices:
            if name not in known:
                wanted = f"names out of {', '.join((*GROUPS, *GROUPS['all-linear']))}"
                raise SettingsError("matrices", got=name, wanted=wanted)

    def scale_for(self, rank: int, alpha: float | None = None) -> float:
        """What B A is multiplied by, for a pair of this rank."""
        numerator = self.alpha if alpha is None else alpha
        return numerator / (rank if self.scale == "plain" else math.sqrt(rank))

    def tensor_names(self, shape: ModelShape) -> tuple[str, ...]:
        """The tensors of a network that are adapted, in its order. Raises: SettingsError for a matrix that
        the network does not have."""
        there = adaptable(shape)
        parts = {name.split(".")[-2] for name in there}
        wanted: set[str] = set()
        for name in self.matrices:
            found = {*GROUPS.get(name, (_NAMES_OF_PEFT.get(name, name),))} & parts
            if not found:
                have = ", ".join(part for part in GROUPS["all-linear"] if part in parts)
                raise SettingsError("matrices", got=name, wanted=f"matrices of this model: {have}")
            wanted |= found
        return tuple(name for name in there if name.split(".")[-2] in wanted)


def adaptable(shape: ModelShape) -> tuple[str, ...]:
    """The tensors that an adapter may change: the matrices of attention and feed-forward."""
    ends = tuple(f".{part}.weight" for part in GROUPS["all-linear"])
    shapes = shape.tensor_shapes()
    return tuple(name for name, size in shapes.items() if len(size) == 2 and name.endswith(ends))


@dataclass(frozen=True, eq=False)
class Adapter:
    """What is added to a base, and to which one."""

    settings: AdapterSettings
    pairs: Mapping[str, Pair]
    """By tensor name, like `layers.0.attention.query.weight`."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Where a matrix has another alpha than the settings say (peft's alpha_pattern)."""
    base: str | None = None
    """`name@version` of the base, or its name elsewhere."""
    base_digest: str | None = None
    """Digest of the base's weights (see model/digest); None where the adapter does not say."""

    def scale_of(self, name: str) -> float:
        """What B A of this matrix is multiplied by."""
        return self.settings.scale_for(len(self.pairs[name][0]), self.alphas.get(name))

    @property
    def num_parameters(self) -> int:
        return sum(down.size + up.size for down, up in self.pairs.values())

    def check(self, shape: ModelShape) -> None:
        """Raises: ShapeError where a matrix is none of the base's, or has another shape, or a number is not
        finite."""
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
            if not (np.isfinite(down).all() and np.isfinite(up).all()):
                raise ShapeError(f"adapter, {name}", wanted="finite numbers", got="a NaN or an infinity")

    def digest(self) -> str:
        """SHA-256 over names, scales, shapes and values as float32, 64 hex digits."""
        found = hashlib.sha256()
        for name in sorted(self.pairs):
            down, up = self.pairs[name]
            found.update(f"{name} {self.scale_of(name)!r} {down.shape} {up.shape}\n".encode())
            for part in (down, up):
                found.update(np.ascontiguousarray(part, np.float32).data)
        return found.hexdigest()
