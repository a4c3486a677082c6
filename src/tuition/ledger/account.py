"""The split of an engine's time, energy and money among requests: the base of both kinds of account.

`EngineAccount` (ledger/attribution) gets every step of our own engine. `ReportedAccount` (ledger/reported)
receives only when requests of a foreign backend began and ended. Both are used alike:

    cost = account.close(request_id)       # once per request, after its last work was told
    totals = account.observe()             # the period so far; every second or so
    account.begin_period(totals)           # the next period begins where these totals end

Beside the shares an account keeps a window of the independent meter (ledger/window). The two are compared at
marks: moments between two steps, at which everything before has been split.
"""

import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable

from tuition.core.amount import Amount
from tuition.core.busy import BusyMarks
from tuition.core.request_record import RequestCost
from tuition.ledger.amount import split_integer
from tuition.ledger.costs import PeriodTotals, Snapshot, Tab, Units
from tuition.ledger.load import MachineLoad
from tuition.ledger.meter import Meter
from tuition.ledger.shares import AS_PER_NS
from tuition.ledger.window import PJ_PER_UJ, Mark, MeterWindow, Power
from tuition.ledger.witness import Witness, witness_of
from tuition.spec.machine import Machine

FRACTION_BITS = 40
"""Fixed point of energy and money inside a step: far below what a million steps could add up to one unit."""

MOST_CLOSED = 4_096
"""Closed requests that are remembered, to catch work that is reported late."""

MOST_NAMED = 200
"""Most open requests that a period names; of more, only the number is stored."""

POLL_S = 0.002
"""Wait between two checks for the end of a step, while a mark is requested."""

FEWEST_LOOKS = 25
"""A process that was stopped and goes on finds its time used up; its other threads have had none either."""

UNITS = (AS_PER_NS, 1 << FRACTION_BITS, 1 << FRACTION_BITS)


class Account(ABC):
    """See the module. Thread-safe. One account per engine; several on one machine: see Machine.divided."""

    def __init__(
        self,
        machine: Machine,
        meter: Meter,
        *,
        rule: str,
        clock: Callable[[], int] = time.monotonic_ns,
        witness: Witness | None = None,
    ) -> None:
        """`witness`: left out, that of the process for the real clock, and none for another clock."""
        self.id = secrets.token_hex(8)
        self.machine, self.meter, self.rule = machine, meter, rule
        self.busy = BusyMarks()
        self._marks_itself = True
        self._clock = clock
        self._witness = witness or witness_of(clock)
        self._load = None if self._witness is None else MachineLoad()
        self._power = Power.of(machine)
        self._lock = threading.RLock()
        self._mark_lock = threading.Lock()
        self._wanted, self._taken = False, threading.Event()
        self._tabs: dict[str, Tab] = {}
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._carry = [0, 0, 0]
        self._attributed, self._idle, self._overhead = [0, 0, 0], [0, 0, 0], [0, 0, 0]  # ns, uJ, nUSD
        self._posted = Amount()
        self._num_steps = self._flops = self._worked_ns = self._num_lost = 0
        self._energy = self._picojoules = 0  # since the account was opened
        now = clock()
        first = self._mark_at(now, meter.read(), self.busy.read(now).busy_ns)
        self._window = MeterWindow(machine, meter.rate, first)
        self._cursor, self._reading = first.time_ns, first.counter_uj
        self._latest = self._base = self._snapshot(first)

    def engine_marks(self) -> BusyMarks:
        """The marks for an engine that marks its own steps; otherwise the account marks what it is told.

        Call it before the first step, and give the result to the engine's step loop.
        """
        self._marks_itself = False
        return self.busy

    @property
    def open_requests(self) -> tuple[str, ...]:
        """Requests with work that has not been charged yet."""
        with self._lock:
            self._settle()
            return tuple(self._tabs)

    def close(self, request_id: str) -> RequestCost:
        """Charge a request, finished or cancelled: what it caused in all its steps.

        An unknown request pays nothing. Call it once, after the request's last step was added;
        work of it that comes later becomes overhead.
        """
        with self._lock:
            self._settle()
            tab = self._tabs.pop(request_id, None) or Tab()
            self._closed[request_id] = None
            if len(self._closed) > MOST_CLOSED:
                self._closed.popitem(last=False)
            totals, prefills, wastes = [], [], []
            for unit, size in enumerate(UNITS):
                exact = tab.prefill[unit] + tab.decode[unit]
                whole, self._carry[unit] = divmod(exact + self._carry[unit], size)
                totals.append(whole)
                prefills.append(split_integer(whole, [tab.prefill[unit], tab.decode[unit]])[0])
                wastes.append(whole * tab.waste[unit] // exact if exact else 0)
            total, prefill = Amount(*totals), Amount(*prefills)
            self._posted += total
            return RequestCost(
                request_id=request_id,
                account_id=self.id,
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
                cpu_ns=None if self._witness is None else tab.cpu_ns,
                other_load_ppm=self._other_load(tab),
            )

    def write_off(self, cost: RequestCost) -> None:
        """Undo a charge whose receipt could not be written; its cost becomes overhead."""
        with self._lock:
            total = cost.total
            self._posted -= total
            for unit, part in enumerate((total.wall_ns, total.energy_uj or 0, total.cost_nusd)):
                self._attributed[unit] -= part
                self._overhead[unit] += part

    def _other_load(self, tab: Tab) -> int | None:
        if self._load is None or tab.start_ns is None:
            return None
        self._load.sample(self._clock())
        return self._load.others_ppm(tab.start_ns, tab.end_ns)

    # --- periods -------------------------------------------------------------------------------------------

    def observe(self, wait_s: float = 0.25) -> PeriodTotals:
        """The period so far: up to now, or while a step runs up to the step before.

        Waits up to `wait_s` for the end of a step. A trace that has not come by then counts as lost.
        """
        with self._mark_lock:
            self._take_mark(wait_s)
            busy = self.busy.read(self._clock())
            with self._lock:
                behind_ns = max(0, busy.now_ns - self._latest.mark.time_ns)
                return self._totals(0 if busy.since_ns is None else behind_ns)

    def begin_period(self, totals: PeriodTotals) -> None:
        """Begin the next period where `totals` end."""
        with self._lock:
            self._base = totals.until

    def drain_period(self) -> PeriodTotals:
        """Close the accounting period and begin the next one."""
        totals = self.observe()
        self.begin_period(totals)
        return totals

    def _totals(self, running_ns: int) -> PeriodTotals:
        base, end = self._base, self._latest
        first, opened = base.mark, self._window.first.time_ns
        return PeriodTotals(
            account_id=self.id,
            start_ns=first.time_ns - opened,
            end_ns=end.mark.time_ns - opened,
            energy_method=self.meter.method,
            meter=end.meter - base.meter,
            attributed=end.attributed - base.attributed,
            idle=end.idle - base.idle,
            overhead=end.overhead - base.overhead,
            posted=end.posted - base.posted,
            in_flight=end.in_flight,
            busy_ns=end.mark.busy_ns - first.busy_ns,
            worked_ns=end.worked_ns - base.worked_ns,
            num_lost=end.num_lost - base.num_lost,
            num_steps=end.num_steps - base.num_steps,
            flops=end.flops - base.flops,
            open_requests=end.open_requests,
            witness_ns=_difference(end.mark.witness_ns, first.witness_ns),
            cpu_ns=_difference(end.mark.cpu_ns, first.cpu_ns),
            running_ns=running_ns,
            until=end,
        )

    def _take_mark(self, wait_s: float) -> None:
        if self._mark_now():
            return
        self._taken.clear()
        self._wanted = True
        deadline, looks = time.monotonic() + wait_s, 0
        while time.monotonic() < deadline or looks < FEWEST_LOOKS:
            looks += 1
            if self._taken.wait(POLL_S):
                with self._lock:
                    self._settle()
                return
            if self._mark_now():
                break
        else:
            self._mark_now(give_up=True)
        self._wanted = False

    @abstractmethod
    def _mark_now(self, give_up: bool = False) -> bool:
        """Take a mark if no step runs and all traces are here; `give_up`: those that are not are lost."""

    # --- all below with the lock held ----------------------------------------------------------------------

    @abstractmethod
    def _settle(self) -> None:
        """Split all recorded steps."""

    def _mark_at(self, now_ns: int, reading: int | None, busy_ns: int) -> Mark:
        witness_ns, cpu_ns = self._witness() if self._witness is not None else (None, None)
        return Mark(now_ns, reading, busy_ns, witness_ns, cpu_ns)

    def _apply(self, mark: Mark) -> None:
        """Bring the shares up to a mark and note both sides; then the shares go on from the meter's state.

        So a difference is shown by the period in which it arose, and by no later one.
        """
        if mark.time_ns < self._latest.mark.time_ns:
            return
        self._pass_time(max(mark.time_ns, self._cursor), None, mark.counter_uj)
        if self._load is not None:
            self._load.sample(mark.time_ns)
        self._latest = self._snapshot(mark)
        self._cursor, self._reading = mark.time_ns, mark.counter_uj
        self._energy = self._latest.meter.energy_uj or 0
        if mark.counter_uj is None:
            self._picojoules = self._window.picojoules(mark)

    def _snapshot(self, mark: Mark) -> Snapshot:
        attributed, idle, overhead = (Amount(*p) for p in (self._attributed, self._idle, self._overhead))
        owed = list(self._carry)
        for tab in self._tabs.values():
            for unit in range(3):
                owed[unit] += tab.prefill[unit] + tab.decode[unit]
        return Snapshot(
            mark=mark,
            meter=self._window.total(mark),
            attributed=attributed,
            idle=idle,
            overhead=overhead,
            posted=self._posted,
            in_flight=Amount(*(exact // size for exact, size in zip(owed, UNITS, strict=True))),
            worked_ns=self._worked_ns,
            num_lost=self._num_lost,
            num_steps=self._num_steps,
            flops=self._flops,
            open_requests=tuple(self._tabs)[:MOST_NAMED],
        )

    def _pass_time(self, end_ns: int, start_ns: int | None, reading: int | None) -> Units:
        """Move the cursor to `end_ns`: a gap up to `start_ns`, then a step (none: all of it is gap).

        The gap is booked here; what the step took is returned. A counter's energy is spread over both by
        modelled power x time, so that it is conserved.
        """
        cursor = self._cursor
        end_ns = max(end_ns, cursor)
        start_ns = end_ns if start_ns is None else min(max(start_ns, cursor), end_ns)
        gap_pj = self._power.idle_mw * (start_ns - cursor)
        step_pj = self._power.full_mw * (end_ns - start_ns)
        if reading is None:
            before = self._picojoules
            self._picojoules = before + gap_pj + step_pj
            middle_uj = (before + gap_pj) // PJ_PER_UJ
            gap_uj, step_uj = middle_uj - before // PJ_PER_UJ, self._picojoules // PJ_PER_UJ - middle_uj
        else:
            measured = max(reading - (self._reading or 0), 0)
            self._reading = max(reading, self._reading or 0)
            gap_uj, step_uj = split_integer(measured, [gap_pj, step_pj])
        if start_ns > cursor or gap_uj:
            add(self._overhead if self._tabs else self._idle, self._price(cursor, start_ns, gap_uj))
        self._cursor = end_ns
        return self._price(start_ns, end_ns, step_uj)

    def _price(self, start_ns: int, end_ns: int, energy_uj: int) -> Units:
        rate, before = self.meter.rate, self._energy
        self._energy = before + energy_uj
        cost = rate.of_time(start_ns, end_ns)
        if rate.nusd_per_kwh:
            cost += rate.of_energy(before, self._energy)
        return end_ns - start_ns, energy_uj, cost

    def _tab(self, request_id: str) -> Tab | None:
        """The open cost of a request; None if it is already closed."""
        tab = self._tabs.get(request_id)
        if tab is None and request_id not in self._closed:
            tab = self._tabs[request_id] = Tab()
        return tab

    def _charge_late(self, parts: Units) -> None:
        """Work of a request that has been charged already: overhead; fractions stay in the carry."""
        for unit, size in enumerate(UNITS):
            units, self._carry[unit] = divmod(parts[unit] + self._carry[unit], size)
            self._overhead[unit] += units
            self._attributed[unit] -= units


def _difference(end: int | None, start: int | None) -> int | None:
    return None if end is None or start is None else end - start


def proportional(total: int, weights: list[int]) -> list[int]:
    """split_integer for fixed point, where it does not matter who gets the last of a trillionth."""
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    most = weights.index(max(weights))
    parts[most] += total - sum(parts)
    return parts


def add(total: list[int], step: Units) -> None:
    """Add to a running total of the three units."""
    total[0] += step[0]
    total[1] += step[1]
    total[2] += step[2]
