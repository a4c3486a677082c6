"""Which matrices an adapter changes, and how strongly. Without numpy and torch: the command line reads it.

In: settings, and the shape of a network.  Out: names of tensors.
"""

import math
from dataclasses import dataclass
from typing import Literal

from tuition.core.errors import SettingsError
from tuition.spec.shape import ModelShape

Scale = Literal["plain", "rank-stabilized"]
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
    """Rank: rows of A and columns of B. A larger rank trains more parameters."""
    alpha: float = 32.0
    """Numerator of the scale, see lora.scale."""
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
