"""Variants of a decoder's weights, several in one step: each row gets what its own variant adds.

In: a `Decoder` and `Variant`s.  Out: hooks on the decoder's matrices, and the choice of rows for the pass at
hand. Without variants there are no hooks, and nothing costs time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.engine.variants import Variant
from tuition.model.decoder import Decoder

Rows = slice | Tensor
"""Rows of a pass: a stretch of them, or a mask over all, (rows,) bool, for passes of fixed shape."""
Pair = tuple[Tensor, Tensor]
"""down (rank, inputs) and up (outputs, rank), in the decoder's dtype."""


@dataclass(slots=True)
class _Matrix:
    """What the variants add to one matrix."""

    pairs: dict[str, Pair] = field(default_factory=dict)
    hook: Any = None


class TorchVariants:
    """The variants of one decoder."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._matrices: dict[str, _Matrix] = {}
        self._chosen: tuple[tuple[str, Rows], ...] = ()

    def add(self, name: str, variant: Variant) -> None:
        """Take a checked variant under a new name."""
        weight = self._decoder.embedding.weight
        for tensor_name, change in variant.changes.items():
            module_name = tensor_name.removesuffix(".weight")
            matrix = self._matrices.setdefault(module_name, _Matrix())
            matrix.pairs[name] = (
                torch.from_numpy(change.down).to(weight.device, weight.dtype, copy=True),
                torch.from_numpy(change.up).to(weight.device, weight.dtype, copy=True),
            )
            if matrix.hook is None:
                module = self._decoder.get_submodule(module_name)
                matrix.hook = module.register_forward_hook(partial(self._add_changes, matrix.pairs))

    def remove(self, name: str) -> None:
        """Forget a variant; matrices that no variant changes lose their hooks."""
        for module_name, matrix in list(self._matrices.items()):
            matrix.pairs.pop(name, None)
            if not matrix.pairs:
                matrix.hook.remove()
                del self._matrices[module_name]

    @contextmanager
    def rows(self, chosen: Sequence[tuple[str, Rows]]) -> Iterator[None]:
        """In this block the decoder computes these rows with these variants, the others as they are."""
        self._chosen = tuple(chosen)
        try:
            yield
        finally:
            self._chosen = ()

    def _add_changes(
        self, pairs: dict[str, Pair], module: torch.nn.Module, inputs: tuple[Tensor, ...], result: Tensor
    ) -> Tensor:
        """The hook of one matrix. Shapes: inputs[0] (1, rows, inputs), result (1, rows, outputs)."""
        for name, rows in self._chosen:
            if name not in pairs:
                continue
            down, up = pairs[name]
            if isinstance(rows, slice):
                result[:, rows] += F.linear(F.linear(inputs[0][:, rows], down), up)
            else:  # a product over all rows, so that its bits do not depend on how many are chosen
                added = result + F.linear(F.linear(inputs[0], down), up)
                result = torch.where(rows[:, None], added, result)
        return result
