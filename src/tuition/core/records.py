"""Values that pass between packages, without behaviour; frozen, except those of every engine step.

`Window` is measured machine time; `StepTrace` lists the requests of an engine step; `Score` is a
measured quality of a model. A billed request has its own file, `request_record`.
"""

from dataclasses import dataclass
from typing import Literal

EnergyMethod = Literal["nvml", "rapl", "modelled"]
"""How joules were obtained: the first two are measured, `modelled` is declared watts times busy time."""

Phase = Literal["prefill", "decode"]

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Window:
    """A span of machine time and its cost. Windows may be nested; booked windows do not overlap."""

    start_ns: int
    """Monotonic clock at the start."""
    wall_ns: int
    """Length, never negative."""
    energy_uj: int | None
    """None: nothing was measured or modelled."""
    energy_method: EnergyMethod | None
    cost_nusd: int
    """Billionths of a US dollar."""

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.wall_ns


@dataclass(slots=True)
class SequenceWork:
    """What one request did in one engine step.

    Not frozen: a frozen dataclass takes 5x longer to construct, and one is made for each request and step.
    """

    request_id: str
    phase: Phase
    num_tokens: int
    """Tokens computed in this step: 1 in a decode, a prefill chunk's length, 1 + drafts in speculation, a
    burst's steps."""
    context_tokens: int
    """Tokens already in the cache before this step, read by its attention."""
    num_sampled: int
    """Rows of logits computed for it."""
    num_wasted: int = 0
    """Of num_tokens: rejected drafts, tokens behind the end of a reply, and tokens computed again after
    preemption."""


@dataclass(slots=True)
class StepTrace:
    """One engine step, or a burst of them: its time on the monotonic clock, and its requests.

    Not frozen, see `SequenceWork`.
    """

    start_ns: int
    end_ns: int
    work: tuple[SequenceWork, ...]
    kind: Literal["step", "load"] = "step"
    """`load` is overhead: nobody's request."""
    num_steps: int = 1
    """Passes over the weights: more in a burst of decodes, in each of which everybody computed one token."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step, as the training loop yields it."""

    step: int
    """Counted from 1, over the whole run (resume continues the count)."""
    loss: float
    """Mean over the step's units; in nats where these are tokens."""
    grad_norm: float
    """Before clipping."""
    lr: float
    num_units: int
    """Of this step: target tokens, images, windows, as the recipe counts."""
    flops: int
    """Model FLOPs, forward and backward; of a decoder as `spec/counts.training_flops` counts them."""
    window: Window
    progress: float
    """Share of the run that is done, 0 to 1, by steps or by the clock."""


@dataclass(frozen=True, slots=True)
class Score:
    """One measured quality of a model, with its uncertainty and what it was measured on."""

    task: str
    """What was measured, like `heldout bits per byte`."""
    value: float
    stderr: float | None
    """Standard error over the items; None where they are too few for one."""
    unit: str
    method: str
    """How it was measured, for people: windows, precision, estimator."""
    num_items: int | None
    """Documents, or other independent items, that the error is over; None: not recorded."""
    num_bytes: int | None = None
    """UTF-8 bytes of the text that was scored; None where it is no text."""
    num_tokens: int | None = None
    """Tokens that were scored; None where there are none."""
    data_digest: str | None = None
    """Of the prepared data that the items are from."""
    run_id: str | None = None
    """The training run that measured it; None: it was measured later."""
    created_unix_ns: int | None = None
    """Set when it is recorded."""
