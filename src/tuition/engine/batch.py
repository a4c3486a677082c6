"""What the scheduler hands to a runner, and what a runner is. No torch: arrays are numpy.

The cache is cut into blocks of `block_size` positions. A sequence's positions p live in block
`block_tables[s, p // block_size]` at offset `p % block_size`, in every layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from tuition.engine.draw_state import DrawState
from tuition.engine.request import Sampling
from tuition.engine.variants import Variant
from tuition.model.folder import ModelFolder
from tuition.spec.shape import ModelShape


@dataclass(frozen=True, slots=True)
class VariantRows:
    """Rows `begin` to `end` of a step, computed with a variant of the weights."""

    name: str
    begin: int
    end: int


@dataclass(slots=True)
class StepBatch:
    """All tokens of one engine step, sequence after sequence, prefill chunks and decodes alike.

    Sequence s owns rows starts[s]:starts[s+1]: consecutive positions beginning at context_lengths[s].
    Not frozen: a frozen dataclass takes 5x longer to construct, and one is made for each step.
    """

    token_ids: np.ndarray
    """(num_tokens,) int32"""
    positions: np.ndarray
    """(num_tokens,) int32"""
    starts: np.ndarray
    """(num_sequences + 1,) int32, first row of each sequence, then num_tokens."""
    context_lengths: np.ndarray
    """(num_sequences,) int32, tokens of the sequence that are already in the cache."""
    block_tables: np.ndarray
    """(num_sequences, most blocks of any) int32, padded with -1; covers context and new tokens."""
    logit_rows: np.ndarray
    """(num_wanted,) int32, the rows whose logits are wanted, ascending."""
    variants: tuple[VariantRows, ...] = ()
    """Rows that are computed with a variant of the weights, ascending; sequences of a variant are neighbours.
    Empty unless the runner is a `VariantRunner`."""


class Runner(Protocol):
    """Executes the network over a block cache that it owns. One thread calls it."""

    shape: ModelShape
    name: str
    """As users see it: `torch bfloat16 on cpu`, `native int8 (AMX)`."""
    num_blocks: int
    block_size: int
    weight_bytes: int
    """Of weights that one step reads, as they are in memory."""
    kv_bytes_per_value: int
    """Of a key or value in the cache."""

    def forward(self, batch: StepBatch) -> np.ndarray:
        """Compute every row, write its keys and values into the cache; logits (num_wanted, vocab) float32.

        The returned array is the runner's own and is overwritten by the next call.
        """
        ...

    def weights_digest(self) -> str:
        """SHA-256 over the tensors as they are in memory now (see model/digest), recomputed at every call."""
        ...

    def swap_weights(self, model: ModelFolder) -> None:
        """Compute with this model's weights from the next call on; the cache then holds nothing of use.

        The shape must be the same. Raises: ShapeError, ModelError; the old weights then stay.
        """
        ...

    def close(self) -> None:
        """Free weights and cache."""
        ...


@runtime_checkable
class VariantRunner(Protocol):
    """A `Runner` that computes rows of a step with variants of its weights, see `StepBatch.variants`."""

    def add_variant(self, name: str, variant: Variant) -> None:
        """Take a variant, which was checked, under a new name. Raises: SettingsError where it cannot."""
        ...

    def remove_variant(self, name: str) -> None:
        """Forget a variant."""
        ...


@runtime_checkable
class BurstRunner(Protocol):
    """A `Runner` that can take several decode steps in one call, without Python between them.

    It draws tokens itself, in bursts and in single steps, so that both give the same reply.
    """

    def decode(
        self, batch: StepBatch, num_steps: int, draws: Sequence[DrawState], seconds: float
    ) -> np.ndarray:
        """Up to `num_steps` steps of one row per sequence; the token that a sequence draws is its next input.

        `draws`: one state per sequence, without rules (`takes_raw_rows`); a token is the one that its `draw`
        gives. The burst ends with the step in which a sequence draws one of its `stop_ids`, after `seconds`,
        or with the step at hand in a hurry; and before a step whose logits are not finite.
        Shapes: `block_tables` covers all steps; the result (steps taken, num_sequences) int32, of no rows
        where the first step's logits are not finite.
        """
        ...

    def draw(self, row: np.ndarray, sampling: Sampling, at: float) -> int:
        """The token that `sampler.draw` means, also for rows that were changed: (vocab,) float32.

        Raises: PoisonedLogitsError.
        """
        ...

    def hurry(self, on: bool) -> None:
        """From any thread: whether a burst should end with the step at hand, because a request waits."""
        ...
