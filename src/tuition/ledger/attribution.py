"""One engine's account: who pays for which part of its time, energy and money.

In: a `StepTrace` per engine step, in order.  Out: `RequestCost` when a request is closed, `PeriodTotals` from
time to time. Nothing is lost or made up: attributed + idle + overhead = meter, to the last of every unit.

    account = EngineAccount(shape, machine, open_meter(machine))
    account.add(trace)                     # every step, BEFORE the step's events are handed out
    cost = account.close(request_id)       # once per request, after its last step
    totals = account.drain_period()        # every minute or so, and when the engine stops

A gap between steps is overhead while a request is open, idle otherwise. Integers of a step are split in fixed
point; a request's fraction of a unit is carried to the next one, so that all postings together sum to what
was attributed.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tuition.core.records import EnergyMethod, Posting, SequenceWork, StepTrace
from tuition.ledger.amount import NOTHING, Amount, split_integer
from tuition.ledger.meter import Meter, modelled_uj
from tuition.ledger.shares import AS_PER_NS, Load, Rule, Speeds, StepCosts, split_step
from tuition.spec.machine import Machine
from tuition.spec.shape import ModelShape

FRACTION_BITS = 40
"""Fixed point of energy and money inside a step: far below what a million steps could add up to one unit."""

MOST_PENDING = 64
"""Steps kept for later: `add` is on the engine's path, so it only takes notes and never waits."""

MOST_CLOSED = 4_096
"""Closed requests that are remembered, to catch work that is reported late."""


@dataclass(frozen=True, slots=True)
class RequestCost:
    """What one request caused, without idle and overhead (the causal view). total = prefill + decode."""

    request_id: str
    rule: Rule
    energy_method: EnergyMethod | None
    total: Amount
    prefill: Amount
    decode: Amount
    waste: Amount
    """Inside total: rejected drafts, tokens behind a stop text, and tokens computed again."""
    num_steps: int
    flops: int
    kv_bytes: int
    computed_tokens: int
    wasted_tokens: int

    @property
    def posting(self) -> Posting:
        """The total as a core record."""
        return self.total.posting(self.computed_tokens, self.energy_method)


@dataclass(frozen=True, slots=True)
class PeriodTotals:
    """An accounting period of one engine. meter = attributed + idle + overhead, to the last unit."""

    start_ns: int
    end_ns: int
    energy_method: EnergyMethod | None
    meter: Amount
    attributed: Amount
    """To requests, closed or still open."""
    idle: Amount
    overhead: Amount
    """Loading, warm-up, time between steps while requests were open."""
    posted: Amount
    """Charged to the requests that were closed in this period; the rest of `attributed` is in flight."""
    num_steps: int
    flops: int


@dataclass(slots=True)
class _Tab:
    """What a request has run up: [attoseconds, energy, money], the last two in fixed point, by phase."""

    prefill: list[int] = field(default_factory=lambda: [0, 0, 0])
    decode: list[int] = field(default_factory=lambda: [0, 0, 0])
    waste: list[int] = field(default_factory=lambda: [0, 0, 0])
    num_steps: int = 0
    flops: int = 0
    kv_bytes: int = 0
    computed_tokens: int = 0
    wasted_tokens: int = 0

    def charge(
        self, work: SequenceWork, load: Load, num_steps: int, share_as: int, energy: int, cost: int
    ) -> None:
        book = self.prefill if work.phase == "prefill" else self.decode
        book[0] += share_as
        book[1] += energy
        book[2] += cost
        if work.num_wasted:
            for unit, part in enumerate((share_as, energy, cost)):
                self.waste[unit] += part * work.num_wasted // work.num_tokens
        self.num_steps += num_steps
        self.flops += load.flops
        self.kv_bytes += load.kv_bytes
        self.computed_tokens += work.num_tokens
        self.wasted_tokens += work.num_wasted


Units = tuple[int, int, int]
"""ns (or attoseconds), uJ, nUSD (or their fixed point)."""

_UNITS = (AS_PER_NS, 1 << FRACTION_BITS, 1 << FRACTION_BITS)


class EngineAccount:
    """See the module. Thread-safe. One account per engine; several on one machine: see Machine.divided."""

    def __init__(
        self,
        shape: ModelShape,
        machine: Machine,
        meter: Meter,
        *,
        rule: Rule = "shapley",
        weight_bytes: int | None = None,
        kv_bytes_per_value: int = 2,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`weight_bytes`: bytes of weights that one step reads (packed size); None: bfloat16 matrices."""
        self.machine, self.meter, self.rule = machine, meter, rule
        self._costs = StepCosts(shape, weight_bytes, kv_bytes_per_value)
        self._speeds = Speeds()
        self._clock = clock
        self._lock = threading.RLock()
        self._pending: deque[tuple[StepTrace, int | None]] = deque()  # its append and popleft are atomic
        self._tabs: dict[str, _Tab] = {}
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._carry = [0, 0, 0]
        self._cursor = clock()
        self._period_start = self._cursor
        self._reading = meter.read()
        self._energy = 0  # uJ since the account was opened
        self._clear_period()

    def _clear_period(self) -> None:
        self._attributed, self._idle, self._overhead = [0, 0, 0], [0, 0, 0], [0, 0, 0]  # ns, uJ, nUSD
        self._posted = NOTHING
        self._num_steps = self._flops = 0

    @property
    def open_requests(self) -> tuple[str, ...]:
        """Requests with work that has not been charged yet."""
        with self._lock:
            self._settle()
            return tuple(self._tabs)

    def runs_on(self, weight_bytes: int, kv_bytes_per_value: int) -> None:
        """What a step reads, known once the runner is loaded: bytes of weights, and of a key or value.

        Call it before the first step with a request in it.
        """
        with self._lock:
            self._costs = StepCosts(self._costs.shape, weight_bytes, kv_bytes_per_value)

    def add(self, trace: StepTrace) -> None:
        """Note one step. Steps come in order and do not overlap; an overlap would count once."""
        self._pending.append((trace, self.meter.read()))
        if len(self._pending) >= MOST_PENDING and self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def close(self, request_id: str) -> RequestCost:
        """Charge a request, finished or cancelled: what it caused in all its steps.

        An unknown one did nothing and pays nothing. Call it once, after the request's last step was added;
        work of it that comes later becomes overhead.
        """
        with self._lock:
            self._settle()
            tab = self._tabs.pop(request_id, None) or _Tab()
            self._closed[request_id] = None
            if len(self._closed) > MOST_CLOSED:
                self._closed.popitem(last=False)
            totals, prefills, wastes = [], [], []
            for unit, size in enumerate(_UNITS):
                exact = tab.prefill[unit] + tab.decode[unit]
                whole, self._carry[unit] = divmod(exact + self._carry[unit], size)
                totals.append(whole)
                prefills.append(split_integer(whole, [tab.prefill[unit], tab.decode[unit]])[0])
                wastes.append(whole * tab.waste[unit] // exact if exact else 0)
            total, prefill = Amount(*totals), Amount(*prefills)
            self._posted += total
            return RequestCost(
                request_id=request_id,
                rule=self.rule,
                energy_method=self.meter.method,
                total=total,
                prefill=prefill,
                decode=total - prefill,
                waste=Amount(*wastes),
                num_steps=tab.num_steps,
                flops=tab.flops,
                kv_bytes=tab.kv_bytes,
                computed_tokens=tab.computed_tokens,
                wasted_tokens=tab.wasted_tokens,
            )

    def drain_period(self) -> PeriodTotals:
        """Close the accounting period and begin the next one.

        It ends now, or with the last step while requests are open (a running step belongs to the next). A
        request is open from the end of its first step: what of that step has passed by now counts as idle.
        """
        reading = self.meter.read()
        with self._lock:
            self._settle()
            if not self._tabs:
                self._pass_time(max(self._clock(), self._cursor), None, reading)
            attributed, idle, overhead = (
                Amount(*parts) for parts in (self._attributed, self._idle, self._overhead)
            )
            totals = PeriodTotals(
                start_ns=self._period_start,
                end_ns=self._cursor,
                energy_method=self.meter.method,
                meter=attributed + idle + overhead,
                attributed=attributed,
                idle=idle,
                overhead=overhead,
                posted=self._posted,
                num_steps=self._num_steps,
                flops=self._flops,
            )
            self._period_start = self._cursor
            self._clear_period()
            return totals

    # --- all below with the lock held ----------------------------------------------------------------------

    def _settle(self) -> None:
        while self._pending:
            trace, reading = self._pending.popleft()
            step = self._pass_time(trace.end_ns, trace.start_ns, reading)
            self._num_steps += trace.num_steps if trace.kind == "step" else 0
            self._charge_step(trace, step)

    def _pass_time(self, end_ns: int, start_ns: int | None, reading: int | None) -> Units:
        """Move the cursor to `end_ns`: a gap up to `start_ns`, then a step (none: all of it is gap).

        The gap is booked here; what the step took is returned. The meter's energy is spread over both by
        modelled power x time, so that it is conserved.
        """
        cursor = self._cursor
        end_ns = max(end_ns, cursor)
        start_ns = end_ns if start_ns is None else min(max(start_ns, cursor), end_ns)
        gap_uj = modelled_uj(self.machine.idle_watts, cursor, start_ns)
        step_uj = modelled_uj(self.machine.full_watts, start_ns, end_ns)
        if reading is not None:
            measured = max(reading - (self._reading or 0), 0)
            self._reading = max(reading, self._reading or 0)
            gap_uj, step_uj = split_integer(measured, [gap_uj, step_uj])
        if start_ns > cursor or gap_uj:
            _add(self._overhead if self._tabs else self._idle, self._price(cursor, start_ns, gap_uj))
        self._cursor = end_ns
        return self._price(start_ns, end_ns, step_uj)

    def _price(self, start_ns: int, end_ns: int, energy_uj: int) -> Units:
        rate, before = self.meter.rate, self._energy
        self._energy = before + energy_uj
        cost = rate.of_time(start_ns, end_ns)
        if rate.nusd_per_kwh:
            cost += rate.of_energy(before, self._energy)
        return end_ns - start_ns, energy_uj, cost

    def _charge_step(self, trace: StepTrace, step: Units) -> None:
        wall_ns, energy_uj, cost_nusd = step
        costs, num_steps = self._costs, trace.num_steps
        loads = [costs.load(work, num_steps) for work in trace.work]
        flops = sum(load.flops for load in loads)
        kv_bytes = sum(load.kv_bytes for load in loads)
        self._flops += flops
        if trace.kind != "step" or not (flops or kv_bytes):
            _add(self._overhead, step)
            return
        weight_bytes = num_steps * costs.weight_bytes
        self._speeds.learn(flops, weight_bytes + kv_bytes, wall_ns)
        _add(self._attributed, step)
        if len(loads) == 1:  # alone: it pays the whole step
            whole = (wall_ns * AS_PER_NS, energy_uj << FRACTION_BITS, cost_nusd << FRACTION_BITS)
            self._charge(trace.work[0], loads[0], num_steps, *whole)
            return
        shares = split_step(loads, wall_ns, weight_bytes=weight_bytes, speeds=self._speeds, rule=self.rule)
        times = [share.total_as for share in shares]
        weights = times
        if not wall_ns:  # a step of no length still carries its energy
            weights = [int(bool(load.flops or load.kv_bytes)) for load in loads]
        energies = _proportional(energy_uj << FRACTION_BITS, weights)
        moneys = _proportional(cost_nusd << FRACTION_BITS, weights)
        for work, load, time_as, energy, money in zip(
            trace.work, loads, times, energies, moneys, strict=True
        ):
            self._charge(work, load, num_steps, time_as, energy, money)

    def _charge(
        self, work: SequenceWork, load: Load, num_steps: int, time_as: int, energy: int, money: int
    ) -> None:
        if not (load.flops or load.kv_bytes):
            return
        tab = self._tabs.get(work.request_id)
        if tab is None:
            if work.request_id in self._closed:
                self._charge_late((time_as, energy, money))
                return
            tab = self._tabs[work.request_id] = _Tab()
        tab.charge(work, load, num_steps, time_as, energy, money)

    def _charge_late(self, parts: Units) -> None:
        """Work of a request that has been charged already: overhead; fractions stay in the carry."""
        for unit, size in enumerate(_UNITS):
            units, self._carry[unit] = divmod(parts[unit] + self._carry[unit], size)
            self._overhead[unit] += units
            self._attributed[unit] -= units


def _proportional(total: int, weights: list[int]) -> list[int]:
    """split_integer for fixed point, where it does not matter who gets the last of a trillionth."""
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    most = weights.index(max(weights))
    parts[most] += total - sum(parts)
    return parts


def _add(total: list[int], step: Units) -> None:
    total[0] += step[0]
    total[1] += step[1]
    total[2] += step[2]
