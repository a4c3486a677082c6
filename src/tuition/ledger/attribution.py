"""The account of our own engine: every step of it is split exactly among the requests that were in it.

In: a `StepTrace` per engine step, in order.  Out: what `ledger/account` says.

    account = EngineAccount(shape, machine, open_meter(machine))
    loop.busy = account.engine_marks()     # the engine marks its steps itself: the meter's busy time
    account.add(trace)                     # every step, BEFORE the step's events are handed out

A gap between steps is overhead while a request is open, idle otherwise. Integers of a step are split in fixed
point; a request's fraction of a unit is carried to the next one, so that all postings together sum to what
was attributed.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tuition.core.records import StepTrace
from tuition.ledger.account import FRACTION_BITS, Account, add, proportional
from tuition.ledger.costs import Units
from tuition.ledger.meter import Meter
from tuition.ledger.shares import AS_PER_NS, Load, Rule, Speeds, StepCosts, split_step
from tuition.ledger.window import Mark
from tuition.ledger.witness import Witness
from tuition.spec.machine import Machine
from tuition.spec.shape import ModelShape

MOST_PENDING = 64
"""Steps that wait for the split: `add` runs on the engine's thread, so it only records and never blocks."""


class EngineAccount(Account):
    """See the module."""

    def __init__(
        self,
        shape: ModelShape,
        machine: Machine,
        meter: Meter,
        *,
        rule: Rule = "shapley",
        clock: Callable[[], int] = time.monotonic_ns,
        witness: Witness | None = None,
    ) -> None:
        """Until `runs_on` is called, a step is taken to read bfloat16 weights, keys and values."""
        super().__init__(machine, meter, rule=rule, clock=clock, witness=witness)
        self._split_rule: Rule = rule
        self._costs = StepCosts(shape)
        self._speeds = Speeds()
        self._pending: deque[tuple[StepTrace, int | None] | Mark] = deque()  # append and popleft are atomic
        self._num_settled = 0
        self._cpu_seen = 0 if self._window.first.cpu_ns is None else self._window.first.cpu_ns
        self._loading_since: int | None = None

    def runs_on(self, weight_bytes: int, kv_bytes_per_value: int) -> None:
        """What a step reads, known once the runner is loaded: bytes of weights, and of a key or value.

        Call it before the first step with a request in it.
        """
        with self._lock:
            self._costs = StepCosts(self._costs.shape, weight_bytes, kv_bytes_per_value)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Time inside is overhead: loading a model, warming it up."""
        with self._lock:
            self._loading_since = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._note_loading(self._clock())
                self._loading_since = None

    def _note_loading(self, now_ns: int) -> None:
        """Record loading up to now as a trace and continue, so that a mark can be inside a load."""
        if self._loading_since is not None:
            self.add(StepTrace(self._loading_since, now_ns, (), "load"))
            self._loading_since = now_ns

    def add(self, trace: StepTrace) -> None:
        """Record one step. Steps come in order and do not overlap.

        Called by the engine's thread between two steps. Loading and warm-up have no engine that could mark
        them, so they are marked here.
        """
        if self._marks_itself or trace.kind != "step":
            self.busy.end(trace.start_ns, trace.end_ns)
        reading = self.meter.read()
        self._pending.append((trace, reading))
        if self._wanted:
            self._wanted = False
            busy = self.busy.read(trace.end_ns)
            self._pending.append(self._mark_at(trace.end_ns, reading, busy.busy_ns))
            self._taken.set()
        if len(self._pending) >= MOST_PENDING and self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def _mark_now(self, give_up: bool = False) -> bool:
        with self._lock:
            now = self._clock()
            stays = False
            if (
                self._marks_itself
            ):  # nobody says whether a step runs: while requests are open, the last one ends
                self._settle()
                stays = bool(self._tabs)
                now = self._cursor if stays else max(now, self._cursor)
            self._note_loading(now)
            busy = self.busy.cut(now)
            if busy is None:
                return False
            self._settle(now)
            missing = busy.num_pieces - self._num_lost - self._num_settled
            if missing > 0 and not give_up:
                return False  # a step has ended whose trace is on its way
            self._num_lost += missing
            self._apply(self._mark_at(now, self._reading if stays else self.meter.read(), busy.busy_ns))
            return True

    # --- all below with the lock held ----------------------------------------------------------------------

    def _settle(self, until_ns: int | None = None) -> None:
        """Split the recorded steps in order; `until_ns`: only steps that ended by then."""
        cpu_ns, wall_ns = self._cpu_of_pending()
        while self._pending:
            noted = self._pending[0]
            if until_ns is not None and not isinstance(noted, Mark) and noted[0].end_ns > until_ns:
                return
            self._pending.popleft()
            if isinstance(noted, Mark):
                self._apply(noted)
                continue
            trace, reading = noted
            step = self._pass_time(trace.end_ns, trace.start_ns, reading)
            self._worked_ns += step[0]
            self._num_settled += 1
            self._num_steps += trace.num_steps if trace.kind == "step" else 0
            self._charge_step(trace, step, cpu_ns * step[0] // wall_ns if wall_ns else 0)

    def _cpu_of_pending(self) -> tuple[int, int]:
        """CPU time of this process since the last time, and the length of the steps that it belongs to.

        Read here and not with each step: it takes a system call.
        """
        if self._witness is None or not self._pending:
            return 0, 0
        before, self._cpu_seen = self._cpu_seen, self._witness()[1]
        lengths = [
            noted[0].end_ns - noted[0].start_ns
            for noted in list(self._pending)
            if not isinstance(noted, Mark)
        ]
        return self._cpu_seen - before, sum(lengths)

    def _charge_step(self, trace: StepTrace, step: Units, cpu_ns: int) -> None:
        wall_ns, energy_uj, cost_nusd = step
        costs, num_steps = self._costs, trace.num_steps
        loads = [costs.load(work, num_steps) for work in trace.work]
        flops = sum(load.flops for load in loads)
        kv_bytes = sum(load.kv_bytes for load in loads)
        self._flops += flops
        if trace.kind != "step" or not (flops or kv_bytes):
            add(self._overhead, step)
            return
        weight_bytes = num_steps * costs.weight_bytes
        self._speeds.learn(flops, weight_bytes + kv_bytes, wall_ns)
        add(self._attributed, step)
        if len(loads) == 1:  # alone: it pays the whole step
            whole = (wall_ns * AS_PER_NS, energy_uj << FRACTION_BITS, cost_nusd << FRACTION_BITS)
            self._charge(trace, 0, loads[0], whole, cpu_ns)
            return
        shares = split_step(
            loads, wall_ns, weight_bytes=weight_bytes, speeds=self._speeds, rule=self._split_rule
        )
        times = [share.total_as for share in shares]
        weights = times
        if not wall_ns:  # a step of no length still carries its energy
            weights = [int(bool(load.flops or load.kv_bytes)) for load in loads]
        energies = proportional(energy_uj << FRACTION_BITS, weights)
        moneys = proportional(cost_nusd << FRACTION_BITS, weights)
        for index, part in enumerate(zip(times, energies, moneys, strict=True)):
            cpu = cpu_ns * part[0] // (wall_ns * AS_PER_NS) if wall_ns else 0
            self._charge(trace, index, loads[index], part, cpu)

    def _charge(self, trace: StepTrace, index: int, load: Load, parts: Units, cpu_ns: int) -> None:
        work = trace.work[index]
        if not (load.flops or load.kv_bytes):
            return
        tab = self._tab(work.request_id)
        if tab is None:
            self._charge_late(parts)
            return
        tab.charge(work.phase, parts)
        if work.num_wasted:
            for unit, part in enumerate(parts):
                tab.waste[unit] += part * work.num_wasted // work.num_tokens
        if tab.start_ns is None:
            tab.start_ns = trace.start_ns
        tab.end_ns = trace.end_ns
        tab.cpu_ns += cpu_ns
        tab.num_steps += trace.num_steps
        tab.flops += load.flops
        tab.kv_bytes += load.kv_bytes
        tab.computed_tokens += work.num_tokens
        tab.wasted_tokens += work.num_wasted
