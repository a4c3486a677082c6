"""The state of an account: the cost of each request so far, and the totals of a period."""

from dataclasses import dataclass, field

from tuition.core.amount import Amount
from tuition.core.records import EnergyMethod, Phase
from tuition.ledger.window import Mark

Units = tuple[int, int, int]
"""ns (or attoseconds), uJ, nUSD (or their fixed point)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything since an account was opened, at one mark."""

    mark: Mark
    meter: Amount
    attributed: Amount
    idle: Amount
    overhead: Amount
    posted: Amount
    in_flight: Amount
    worked_ns: int
    num_lost: int
    num_steps: int
    flops: int
    open_requests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PeriodTotals:
    """An accounting period of one account, so far or as a whole. A residual other than 0 is an error."""

    account_id: str
    start_ns: int
    """Since the account was opened, on its own clock."""
    end_ns: int
    energy_method: EnergyMethod | None
    meter: Amount
    """By the independent window."""
    attributed: Amount
    """To requests, closed or still open."""
    idle: Amount
    overhead: Amount
    """Loading, warm-up, time between steps while requests were open."""
    posted: Amount
    """Charged to the requests that were closed in this period."""
    in_flight: Amount
    """Cost of the open requests at the end of the period, with earlier periods."""
    busy_ns: int
    """Time that the worker has marked as busy."""
    worked_ns: int
    """Length of the steps that were split: a value other than busy_ns is an error."""
    num_lost: int
    """Steps that the worker marked but did not report; below zero: reported but not marked."""
    num_steps: int
    flops: int
    open_requests: tuple[str, ...]
    witness_ns: int | None
    """The period by the second clock."""
    cpu_ns: int | None
    """CPU time of this process in the period."""
    running_ns: int
    """Time after end_ns that is in no figure yet, because a step still runs."""
    until: Snapshot

    @property
    def residual(self) -> Amount:
        """meter - attributed - idle - overhead."""
        return self.meter - self.attributed - self.idle - self.overhead


@dataclass(slots=True)
class Tab:
    """The cost of a request so far: [attoseconds, energy, money], the last two in fixed point, by phase."""

    prefill: list[int] = field(default_factory=lambda: [0, 0, 0])
    decode: list[int] = field(default_factory=lambda: [0, 0, 0])
    waste: list[int] = field(default_factory=lambda: [0, 0, 0])
    num_steps: int = 0
    flops: int = 0
    kv_bytes: int = 0
    computed_tokens: int = 0
    wasted_tokens: int = 0
    cpu_ns: int = 0
    start_ns: int | None = None
    end_ns: int = 0

    def charge(self, phase: Phase, parts: Units) -> None:
        book = self.prefill if phase == "prefill" else self.decode
        book[0] += parts[0]
        book[1] += parts[1]
        book[2] += parts[2]
