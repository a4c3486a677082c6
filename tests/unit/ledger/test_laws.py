"""The laws of what things cost (ECONOMICS), on random traces of an engine: any mix, any order, any gaps."""

import threading
import time
from collections import defaultdict
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.records import SequenceWork, StepTrace
from tuition.ledger.amount import NOTHING, Amount, split_integer
from tuition.ledger.attribution import EngineAccount, PeriodTotals, RequestCost
from tuition.ledger.meter import CounterMeter, ModelledMeter
from tuition.ledger.shares import Load, Speeds, StepCosts, split_step
from tuition.spec.machine import Machine
from tuition.spec.shape import ModelShape

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
RULE = st.sampled_from(["shapley", "incremental"])


@dataclass
class Outcome:
    costs: list[RequestCost]
    periods: list[PeriodTotals]
    total: PeriodTotals
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
            account.add(StepTrace(start, now[0], tuple(named), kind))
    costs += [account.close(name) for name in sorted(open_now)]
    periods.append(account.drain_period())
    parts = ("meter", "attributed", "idle", "overhead", "posted")
    total = PeriodTotals(
        begin, now[0], meter.method,
        *(sum((getattr(p, part) for p in periods), NOTHING) for part in parts),
        num_steps=sum(p.num_steps for p in periods), flops=sum(p.flops for p in periods),
    )  # fmt: skip
    return Outcome(costs, periods, total, now[0] - begin, meter.read())


EVENTS = st.lists(EVENT, min_size=1, max_size=25)


@given(events=EVENTS, rule=RULE)
@settings(max_examples=120, deadline=None)
def test_law_1_attributed_idle_and_overhead_are_the_meter(
    shape: ModelShape, machine: Machine, events, rule
) -> None:
    """To the last unit, in every period, in every unit; and the postings are what was attributed."""
    outcome = play(shape, machine, events, rule)
    for period in outcome.periods:
        assert period.meter == period.attributed + period.idle + period.overhead
        for amount in (period.meter, period.idle, period.overhead):
            assert min(amount.wall_ns, amount.energy_uj, amount.cost_nusd) >= 0
    assert sum((cost.total for cost in outcome.costs), NOTHING) == outcome.total.attributed
    assert outcome.total.posted == outcome.total.attributed


@given(events=EVENTS, rule=RULE)
@settings(max_examples=60, deadline=None)
def test_law_1_holds_for_a_counter_that_ticks_slowly(
    shape: ModelShape, machine: Machine, events, rule
) -> None:
    """A measured meter's total is conserved although steps are shorter than its ticks."""
    outcome = play(shape, machine, events, rule, counter_uj_per_s=180e6)
    assert outcome.total.meter.energy_uj == outcome.meter_uj
    assert outcome.total.meter == outcome.total.attributed + outcome.total.idle + outcome.total.overhead
    assert sum((cost.total for cost in outcome.costs), NOTHING) == outcome.total.attributed


@given(events=EVENTS, rule=RULE)
@settings(max_examples=60, deadline=None)
def test_law_2_flops_attributed_are_the_flops_counted(
    shape: ModelShape, machine: Machine, events, rule
) -> None:
    costs = StepCosts(shape)
    outcome = play(shape, machine, events, rule)
    counted = sum(
        costs.load(sequence_work("r", *work[1:])).flops
        for event in events
        if event != "drain" and event[0] != "close" and event[3] == "step"
        for work in event[2]
    )
    assert sum(cost.flops for cost in outcome.costs) == counted


@given(events=EVENTS, rule=RULE)
@settings(max_examples=60, deadline=None)
def test_law_3_busy_and_idle_time_is_wall_time(shape: ModelShape, machine: Machine, events, rule) -> None:
    outcome = play(shape, machine, events, rule)
    assert outcome.total.meter.wall_ns == outcome.wall_ns


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**13), min_size=1, max_size=8))
@settings(deadline=None)
def test_law_4_splitting_a_window_changes_nothing(machine: Machine, begin: int, lengths: list[int]) -> None:
    now = [begin]
    meter = ModelledMeter(machine, lambda: now[0])
    whole_start, parts = meter.start(), []
    for length in lengths:
        start = meter.start()
        now[0] += length
        parts.append(meter.stop(start))
    whole = meter.stop(whole_start)
    assert sum(part.wall_ns for part in parts) == whole.wall_ns
    assert sum(part.energy_uj for part in parts) == whole.energy_uj
    # Time money splits exactly; electricity is priced from the same running total, so it does as well.
    assert sum(part.cost_nusd for part in parts) == whole.cost_nusd


LOAD = st.builds(
    Load,
    phase=st.sampled_from(["prefill", "decode"]),
    flops=st.integers(0, 10**12),
    kv_bytes=st.integers(0, 10**9),
)
SPEEDS = st.builds(Speeds, flops_per_s=st.integers(10**9, 10**15), bytes_per_s=st.integers(10**8, 10**13))
STEP_NS = st.integers(1, 10**10)
WEIGHTS = st.integers(0, 10**11)


@given(
    loads=st.lists(LOAD, min_size=1, max_size=10),
    wall=STEP_NS,
    weights=WEIGHTS,
    speeds=SPEEDS,
    rule=RULE,
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_law_5_order_does_not_matter_and_equals_pay_equally(loads, wall, weights, speeds, rule, data) -> None:
    """Up to the attosecond that cannot be divided, which is far below a posted unit."""
    if not any(load.flops or load.kv_bytes for load in loads):
        return
    order = data.draw(st.permutations(range(len(loads))))
    shares = split_step(loads, wall, weight_bytes=weights, speeds=speeds, rule=rule)
    turned = split_step([loads[i] for i in order], wall, weight_bytes=weights, speeds=speeds, rule=rule)
    assert sum(share.total_as for share in shares) == wall * 10**9
    for place, i in enumerate(order):
        assert abs(turned[place].total_as - shares[i].total_as) <= 2
    for i, first in enumerate(loads):
        for j, second in enumerate(loads):
            if first == second:
                assert abs(shares[i].total_as - shares[j].total_as) <= 2


@given(
    work=WORK,
    steps=st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**9)), min_size=1, max_size=6),
    rule=RULE,
)
@settings(max_examples=60, deadline=None)
def test_law_6_a_lone_request_pays_its_whole_steps(
    shape: ModelShape, machine: Machine, work, steps, rule
) -> None:
    if work[2] == 0 and work[4] == 0:
        return
    outcome = play(shape, machine, [(gap, length, [work], "step") for gap, length in steps], rule)
    (cost,) = outcome.costs
    assert cost.total == outcome.total.attributed
    assert cost.total.wall_ns == sum(length for _, length in steps)


@given(
    loads=st.lists(LOAD.filter(lambda load: load.flops or load.kv_bytes), min_size=2, max_size=10),
    phase=st.sampled_from(["prefill", "decode"]),
    shared_ns=st.integers(0, 10**9),
    weights=WEIGHTS,
    speeds=SPEEDS,
)
@settings(max_examples=200, deadline=None)
def test_law_7_one_more_request_never_raises_anothers_shared_part(
    loads, phase, shared_ns, weights, speeds
) -> None:
    """The newcomer lengthens the step by what it causes itself; what is there for all gets one more payer."""
    loads = [Load(phase, load.flops, load.kv_bytes) for load in loads]

    def resources(members: list[Load]) -> tuple[int, int]:
        compute = sum(load.flops * 10**18 // speeds.flops_per_s for load in members)
        memory = weights * 10**18 // speeds.bytes_per_s
        return compute, memory + sum(load.kv_bytes * 10**18 // speeds.bytes_per_s for load in members)

    def split(members: list[Load]) -> list[int]:
        wall_ns = shared_ns + -(-max(resources(members)) // 10**9)
        return [s.shared_as for s in split_step(members, wall_ns, weight_bytes=weights, speeds=speeds)]

    few, many = loads[:-1], loads
    if (resources(few)[0] > resources(few)[1]) != (resources(many)[0] > resources(many)[1]):
        return  # the newcomer changed which resource binds: there is no one shared part to compare
    for before, after in zip(split(few), split(many), strict=False):
        assert after <= before + 10**9 + 2  # the step's length is rounded up to a nanosecond


@given(events=EVENTS, rule=RULE)
@settings(max_examples=60, deadline=None)
def test_law_8_a_request_that_did_nothing_pays_nothing(
    shape: ModelShape, machine: Machine, events, rule
) -> None:
    events = [
        (*e[:2], [*e[2], (9, "decode", 0, 500, 0, 0)], e[3]) if e != "drain" and e[0] != "close" else e
        for e in events
    ]
    outcome = play(shape, machine, [*events, ("close", 9), ("close", 8)], rule)
    for cost in outcome.costs:
        if cost.request_id[0] in "98":
            assert cost.total == cost.waste == NOTHING
            assert (cost.num_steps, cost.flops, cost.computed_tokens) == (0, 0, 0)


@given(events=EVENTS, rule=RULE)
@settings(max_examples=60, deadline=None)
def test_a_request_is_prefill_and_decode_and_its_waste_lies_inside(
    shape: ModelShape, machine: Machine, events, rule
) -> None:
    for cost in play(shape, machine, events, rule).costs:
        assert cost.prefill + cost.decode == cost.total
        for unit in ("wall_ns", "energy_uj", "cost_nusd"):
            assert 0 <= getattr(cost.waste, unit) <= getattr(cost.total, unit)
            assert getattr(cost.prefill, unit) >= 0


@given(total=st.integers(0, 10**20), weights=st.lists(st.integers(0, 10**20), min_size=1, max_size=20))
@settings(deadline=None)
def test_an_integer_split_is_exact_and_no_part_is_off_by_a_unit(total: int, weights: list[int]) -> None:
    parts = split_integer(total, weights)
    assert sum(parts) == total
    whole = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        if whole:
            assert abs(part * whole - total * weight) < whole


def test_what_is_reported_after_a_request_was_closed_becomes_overhead(
    shape: ModelShape, machine: Machine
) -> None:
    work = SequenceWork("late", "decode", 1, 10, 1)
    now = [0]
    meter = ModelledMeter(machine, lambda: now[0])
    account = EngineAccount(shape, machine, meter, clock=lambda: now[0])
    account.add(StepTrace(0, 1_000_000, (work,)))
    paid = account.close("late").total
    account.add(StepTrace(1_000_000, 2_000_000, (work,)))
    now[0] = 2_000_000
    totals = account.drain_period()
    assert totals.attributed == totals.posted == paid
    assert totals.overhead.wall_ns == 1_000_000
    assert totals.meter == totals.attributed + totals.idle + totals.overhead


def test_steps_and_charges_from_several_threads_add_up(shape: ModelShape, machine: Machine) -> None:
    """One thread steps, three close; nothing is lost between them."""
    account = EngineAccount(shape, machine, ModelledMeter(machine))
    steps, costs = 300, []

    def step() -> None:
        for i in range(steps):
            begin = time.monotonic_ns()
            work = tuple(SequenceWork(f"{i // 3}.{j}", "decode", 1, 10 * j, 1) for j in range(5))
            account.add(StepTrace(begin, time.monotonic_ns(), work))

    def close(part: int) -> None:
        for i in range(part, steps // 3, 3):
            while stepping.is_alive() and i >= account._num_steps // 3 - 1:
                time.sleep(0.001)
                assert len(account.open_requests) <= 5 * steps  # settles what was noted
            costs.extend(account.close(f"{i}.{j}") for j in range(5))

    stepping = threading.Thread(target=step)
    closing = [threading.Thread(target=close, args=(part,)) for part in range(3)]
    for thread in (stepping, *closing):
        thread.start()
    for thread in (stepping, *closing):
        thread.join()
    totals = account.drain_period()
    assert totals.num_steps == steps
    assert sum((cost.total for cost in costs), NOTHING) == totals.attributed
    assert totals.meter == totals.attributed + totals.idle + totals.overhead


def test_gaps_are_overhead_while_a_request_is_open_and_idle_otherwise(
    shape: ModelShape, machine: Machine
) -> None:
    now = [0]
    account = EngineAccount(shape, machine, ModelledMeter(machine, lambda: now[0]), clock=lambda: now[0])
    account.add(StepTrace(100, 200, (), "load"))
    account.add(StepTrace(300, 400, (SequenceWork("r", "prefill", 5, 0, 1),)))
    account.add(StepTrace(450, 500, (SequenceWork("r", "decode", 1, 5, 1),)))
    now[0] = 600
    account.close("r")
    totals = account.drain_period()
    assert totals.idle.wall_ns == 100 + 100 + 100  # before the load, after it, after the request
    assert totals.overhead.wall_ns == 100 + 50  # the load, and the gap between the request's steps
    assert totals.attributed.wall_ns == 150


def test_the_check_of_law_1_finds_a_planted_loss(
    shape: ModelShape, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that forgets the fractions of a unit does not add up, and the law notices."""
    trio = [(i, "decode", 1, 40 * i, 1, 0) for i in range(3)]
    events = [(10, 1_000_003 + i, trio, "step") for i in range(9)]
    honest = play(shape, machine, events, "shapley")
    assert sum((cost.total for cost in honest.costs), NOTHING) == honest.total.attributed
    close = EngineAccount.close

    def forgetful(account: EngineAccount, request_id: str) -> RequestCost:
        cost = close(account, request_id)
        account._carry = [0, 0, 0]
        return cost

    monkeypatch.setattr(EngineAccount, "close", forgetful)
    lossy = play(shape, machine, events, "shapley")
    assert sum((cost.total for cost in lossy.costs), NOTHING) != lossy.total.attributed


def test_an_amount_with_unknown_energy_makes_the_sum_unknown() -> None:
    assert (Amount(1, None, 2) + Amount(3, 4, 5)) == Amount(4, None, 7)
    assert Amount(1, None, 2).energy_wh is None


@pytest.mark.parametrize("bad", [(-1, [1]), (1, [-1, 3]), (1, [])])
def test_a_split_that_cannot_be_is_refused(bad: tuple[int, list[int]]) -> None:
    with pytest.raises(ValueError, match=r"negative|nobody"):
        split_integer(*bad)
