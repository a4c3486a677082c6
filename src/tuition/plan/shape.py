"""How large a model to teach when nobody says: from the time, the machine and the text. No torch.

In: seconds, floating-point operations per second of plain matrix products, bytes of text.  Out: a
`ModelSize`, and how often and on how much text the run is evaluated.
The table is fitted on bench/sweep_shape.py (rows in bench/results/sweep_shape.json). Budgets are counted in
the operations that plain products would have done in that time, since that is quick to measure anywhere.
"""

from dataclasses import dataclass, replace

from tuition.spec.counts import training_flops
from tuition.spec.shape import ModelShape


@dataclass(frozen=True)
class ModelSize:
    """A small decoder, and the batches that it is taught with."""

    hidden_size: int
    num_layers: int
    head_dim: int
    vocab_size: int
    batch_size: int
    seq_len: int


@dataclass(frozen=True)
class EvaluationPlan:
    """How often and on how much of the held-out text a run is evaluated."""

    times: int
    """Spread over the run, the last at its end."""
    probe_bytes: int
    """Scored each time before the end."""
    final_bytes: int | None
    """Scored at the end; None: all of them."""


STANDARD = ModelSize(256, 4, 64, vocab_size=4_096, batch_size=16, seq_len=256)
"""For a run by steps, which must not depend on the machine."""
STANDARD_EVALUATION = EvaluationPlan(times=4, probe_bytes=32_768, final_bytes=None)

TABLE: tuple[tuple[float, ModelSize], ...] = (
    (0.0, ModelSize(64, 2, 32, vocab_size=512, batch_size=8, seq_len=256)),
    (5e12, ModelSize(96, 3, 32, vocab_size=1_024, batch_size=8, seq_len=256)),
    (2e13, ModelSize(128, 4, 64, vocab_size=2_048, batch_size=8, seq_len=256)),
    (1e14, ModelSize(192, 4, 64, vocab_size=2_048, batch_size=8, seq_len=256)),
    (5e14, ModelSize(256, 6, 64, vocab_size=4_096, batch_size=8, seq_len=512)),
)
"""Least operations of plain products that fit into the budget, and the size that is best from there on. The
first three were measured against each other; the fourth up to two thirds of its budget, where it was 0.02
bits per byte behind and catching up; the last is extrapolated."""

LEAST_BYTES = (0, 100_000, 400_000, 2_000_000, 8_000_000)
"""Bytes of text from which each size of `TABLE` is used: with less text a larger model learns it by heart."""


def products_used(hidden_size: int) -> float:
    """Share of the plain products' speed that a training step reaches: matrices of small models are too small
    to fill the machine (same sweep)."""
    return min(0.33, 0.3 * hidden_size / 128)


EVALUATION_SHARE = 0.05
"""Of the budget, for all evaluations before the last; the last may take as much again four times."""
BYTES_PER_TRAINED_TOKEN = 4.5
"""Held-out bytes that are scored in the time of one trained token: three bytes a token, a forward pass is a
third of a step, and windows overlap by half."""


def size_for(seconds: float, product_flops_per_s: float, text_bytes: int) -> ModelSize:
    """The size that makes most of this budget with this much text, on a machine of this speed. Rows are
    short where there are only a few of them."""
    products = seconds * product_flops_per_s
    fits = [
        size
        for (least, size), least_bytes in zip(TABLE, LEAST_BYTES, strict=True)
        if products >= least and text_bytes >= least_bytes
    ]
    size = fits[-1]
    return replace(size, seq_len=min(size.seq_len, max(16, text_bytes // 16)))


def num_tokens_in(seconds: float, product_flops_per_s: float, shape: ModelShape, seq_len: int) -> int:
    """Tokens that are taught in so much time, about."""
    row = training_flops(shape, seq_len, seq_len)
    used = products_used(shape.hidden_size)
    return int(seconds * product_flops_per_s * used / row * seq_len)


def evaluation_for(seconds: float, num_tokens: int) -> EvaluationPlan:
    """Evaluations that leave nearly all of the budget to training, in which `num_tokens` are taught."""
    times = 1 if seconds < 20 else 2 if seconds < 60 else 4
    whole = EVALUATION_SHARE * num_tokens * BYTES_PER_TRAINED_TOKEN
    each = int(whole / max(1, times - 1))
    return EvaluationPlan(
        times=times,
        probe_bytes=min(max(each, 2_048), STANDARD_EVALUATION.probe_bytes),
        final_bytes=max(int(4 * whole), 65_536),
    )
