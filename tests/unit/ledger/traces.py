"""Random traces of an engine, and an account that is led through them on a clock of its own."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import Connection

from tuition.core.amount import NOTHING, Amount
from tuition.core.records import SequenceWork, StepTrace
from tuition.core.request_record import RequestCost
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.costs import PeriodTotals
from tuition.ledger.meter import CounterMeter, ModelledMeter
from tuition.ledger.periods import columns_of, write_period
from tuition.ledger.process import process_identity

# A step: gap before it, length, (request, phase, tokens, context, sampled, wasted) of each sequence, kind.
WORK = st.tuples(
    st.integers(0, 7),
    st.sampled_from(["prefill", "decode"]),
    st.integers(0, 300),
    st.integers(0, 1_500),
    st.integers(0, 2),
    st.integers(0, 300),
)
STEP = st.tuples(
    st.integers(0, 10**10),
    st.integers(0, 3 * 10**9),
    st.lists(WORK, max_size=6, unique_by=lambda w: w[0]),
    st.sampled_from(["step", "step", "step", "step", "load", "warmup"]),
)
EVENT = st.one_of(STEP, STEP, STEP, st.just("drain"), st.tuples(st.just("close"), st.integers(0, 7)))
EVENTS = st.lists(EVENT, min_size=1, max_size=25)
RULE = st.sampled_from(["shapley", "incremental"])


@dataclass
class Sums:
    """Parts of all periods together."""

    meter: Amount
    attributed: Amount
    idle: Amount
    overhead: Amount
    posted: Amount
    flops: int


@dataclass
class Outcome:
    account: EngineAccount
    costs: list[RequestCost]
    periods: list[PeriodTotals]
    total: Sums
    wall_ns: int
    meter_uj: int | None


def sequence_work(
    name: str, phase: str, tokens: int, context: int, sampled: int, wasted: int
) -> SequenceWork:
    return SequenceWork(name, phase, tokens, context, sampled, min(wasted, tokens))  # type: ignore[arg-type]


def play(shape, machine, events, rule, counter_uj_per_s=None, tick_ns=10**8) -> Outcome:
    """Run an account through the events on a clock of its own; close every request at the end."""
    now = [5 * 10**12]
    begin = now[0]

    def counter() -> int:  # ticks only every tick_ns, like NVML
        return int((now[0] // tick_ns * tick_ns) * counter_uj_per_s / 1e9)

    if counter_uj_per_s is None:
        meter = ModelledMeter(machine, lambda: now[0])
    else:
        meter = CounterMeter(machine, "nvml", counter, lambda: now[0])
    account = EngineAccount(shape, machine, meter, rule=rule, clock=lambda: now[0])
    costs, periods, open_now, generation = [], [], set(), defaultdict(int)
    for event in events:
        if event == "drain":
            periods.append(account.drain_period())
        elif event[0] == "close":
            name = f"{event[1]}.{generation[event[1]]}"
            costs.append(account.close(name))
            open_now.discard(name)
            generation[event[1]] += 1
        else:
            gap, length, works, kind = event
            now[0] += gap
            start = now[0]
            now[0] += length
            named = [sequence_work(f"{w[0]}.{generation[w[0]]}", *w[1:]) for w in works]
            open_now |= {work.request_id for work in named}
            is_burst = kind == "step" and all(work.phase == "decode" for work in named)
            num_steps = 1 + length % 5 if is_burst else 1
            account.add(StepTrace(start, now[0], tuple(named), kind, num_steps))
    costs += [account.close(name) for name in sorted(open_now)]
    periods.append(account.drain_period())
    parts = ("meter", "attributed", "idle", "overhead", "posted")
    sums = [sum((getattr(period, part) for period in periods), NOTHING) for part in parts]
    total = Sums(*sums, flops=sum(period.flops for period in periods))
    return Outcome(account, costs, periods, total, now[0] - begin, meter.read())


def write_periods(
    connection: Connection, model: str, rate_id: int, found: Sequence[PeriodTotals], **changes: Any
) -> None:
    """All periods of an account as closed rows, as `Periods` writes them."""
    for number, totals in enumerate(found):
        fixed = {
            "kind": "serving", "model": model, "account": totals.account_id, "process": process_identity(),
            "rate_id": rate_id, "number": number, "status": "closed",
        }  # fmt: skip
        write_period(connection, fixed | columns_of(totals) | changes)


def steps_of(events: Sequence[Any]) -> list[Any]:
    """The events that are steps."""
    return [event for event in events if event != "drain" and event[0] != "close"]
