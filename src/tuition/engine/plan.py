"""One step as three beats: the scheduler plans it, a runner computes it, the scheduler commits it.

In: the sequences of a step.  Out: a plan, `Rows` or `Burst`, with its arrays for the runner; and what a
runner made of it, an `Outcome`.
"""

from dataclasses import dataclass

import numpy as np

from tuition.engine.batch import StepBatch, VariantRows
from tuition.engine.sequence import Sequence


@dataclass(slots=True)
class Rows:
    """One pass over prompts, decodes and drafts: each sequence's rows, in the order of `sequences`."""

    batch: StepBatch
    sequences: list[Sequence]


@dataclass(slots=True)
class Burst:
    """Up to `num_steps` decode steps in one call of a `BurstRunner`, one row per sequence and step."""

    batch: StepBatch
    sequences: list[Sequence]
    num_steps: int


Plan = Rows | Burst


@dataclass(slots=True)
class Logits:
    """A step was computed. The runner's next call overwrites `values`, (num_wanted, vocab) float32."""

    plan: Plan
    values: np.ndarray


@dataclass(slots=True)
class Tokens:
    """A burst was computed: `values`, (steps taken, num_sequences) int32, at least one step."""

    plan: Burst
    values: np.ndarray


@dataclass(slots=True)
class Failure:
    """The step raised."""

    plan: Plan
    error: Exception


Outcome = Logits | Tokens | Failure


class BatchBuilder:
    """Makes the arrays of a step from the rows that the scheduler gave to each sequence."""

    def __init__(self, most_positions: int, most_drafts: int) -> None:
        self._count = np.arange(most_positions + 2, dtype=np.int32)
        self._lone_starts = [np.array((0, n), np.int32) for n in range(2 + most_drafts)]

    def build(self, rows: list[Sequence], *, has_variants: bool) -> StepBatch:
        """The arrays; each sequence is told where its logits will stand.

        `has_variants`: requests may name a variant; sequences of a variant must stand together.
        """
        count = self._count
        if len(rows) == 1 and rows[0].decoding:  # nothing is copied for a lone decode
            one = rows[0]
            start, size = one.num_computed, one.rows
            one.first_logit, one.num_logits = 0, size
            return StepBatch(
                one.tokens[start : start + size],
                count[start : start + size],
                self._lone_starts[size],
                count[start : start + 1],
                one.table[None, : len(one.blocks)],
                count[:size],
                _variant_rows(rows) if has_variants else (),
            )
        starts = np.empty(len(rows) + 1, np.int32)
        contexts = np.empty(len(rows), np.int32)
        tables = np.full((len(rows), max(len(s.blocks) for s in rows)), -1, np.int32)
        tokens, positions, logits = [], [], []
        begin = num_logits = 0
        for index, sequence in enumerate(rows):
            start, size = sequence.num_computed, sequence.rows
            starts[index], contexts[index] = begin, start
            tables[index, : len(sequence.blocks)] = sequence.table[: len(sequence.blocks)]
            tokens.append(sequence.tokens[start : start + size])
            positions.append(count[start : start + size])
            wanted = _first_wanted_row(sequence)
            sequence.first_logit, sequence.num_logits = num_logits, size - wanted
            if wanted < size:
                logits.append(np.arange(begin + wanted, begin + size, dtype=np.int32))
            num_logits += size - wanted
            begin += size
        starts[-1] = begin
        return StepBatch(
            np.concatenate(tokens),
            np.concatenate(positions),
            starts,
            contexts,
            tables,
            np.concatenate(logits) if logits else np.empty(0, np.int32),
            _variant_rows(rows) if has_variants else (),
        )


def _first_wanted_row(sequence: Sequence) -> int:
    """First of the sequence's rows whose logits are wanted; they are wanted from there to the end."""
    request, start, end = sequence.request, sequence.num_computed, sequence.num_computed + sequence.rows
    if sequence.decoding:
        return 0
    if sequence.needs_scores:
        return min(max(0, sequence.num_scored - start), sequence.rows)
    last = end >= sequence.num_tokens and sequence.num_tokens < sequence.num_prompt + request.max_tokens
    return sequence.rows - 1 if last else sequence.rows


def _variant_rows(rows: list[Sequence]) -> tuple[VariantRows, ...]:
    """For each variant of the weights, the rows that are computed with it."""
    found: list[VariantRows] = []
    begin = 0
    for sequence in rows:
        name, end = sequence.request.variant, begin + sequence.rows
        if name is not None and found and found[-1].name == name:
            found[-1] = VariantRows(name, found[-1].begin, end)
        elif name is not None:
            found.append(VariantRows(name, begin, end))
        begin = end
    return tuple(found)
