"""The laws of what things cost (ECONOMICS), on random traces of an engine: any mix, any order, any gaps."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.amount import NOTHING, Amount
from tuition.core.records import SequenceWork, StepTrace
from tuition.ledger.amount import split_integer
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.shares import Load, Speeds, StepCosts, split_step
from tuition.spec.machine import Machine
from tuition.spec.shape import ModelShape
from unit.ledger.traces import EVENTS, RULE, WORK, play, sequence_work, steps_of


@given(events=EVENTS, rule=RULE)
@settings(max_examples=120, deadline=None)
def test_law_1_attributed_idle_and_overhead_are_the_meter(
    shape: ModelShape, machine: Machine, events, rule
) -> None:
    """To the last unit, in every period, in every unit; and the postings are what was attributed.

    The meter is read from clock and busy marks: `window.total` never sees a share.
    """
    outcome = play(shape, machine, events, rule)
    for period in outcome.periods:
        assert period.residual == NOTHING
        assert (period.busy_ns, period.num_lost) == (period.worked_ns, 0)
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
    assert all(period.residual == NOTHING for period in outcome.periods)
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
        for _, _, works, kind in steps_of(events)
        if kind == "step"
        for work in works
    )
    assert sum(cost.flops for cost in outcome.costs) == counted


@given(events=EVENTS, rule=RULE)
@settings(max_examples=60, deadline=None)
def test_law_2_flops_are_at_most_what_the_machine_can_do_in_the_time_that_is_paid(
    shape: ModelShape, machine: Machine, events, rule
) -> None:
    """On traces that a machine could have made: no step is shorter than its FLOPs at full speed."""
    costs, peak = StepCosts(shape), int(machine.peak_flops)

    def possible(event):
        gap, length, works, kind = event
        flops = sum(costs.load(sequence_work("r", *work[1:])).flops for work in works)
        return gap, max(length, -(-flops * 10**9 // peak)), works, kind

    whole = [possible(event) if event in steps_of([event]) else event for event in events]
    outcome = play(shape, machine, whole, rule)
    assert sum(cost.flops for cost in outcome.costs) * 10**9 <= peak * outcome.total.attributed.wall_ns
    for period in outcome.periods:
        assert period.flops * 10**9 <= peak * period.meter.wall_ns


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


PRESENT = LOAD.filter(lambda load: load.flops or load.kv_bytes)


@given(
    loads=st.lists(PRESENT, min_size=2, max_size=10),
    shared_ns=st.integers(0, 10**9),
    weights=WEIGHTS,
    speeds=SPEEDS,
    rule=RULE,
)
@settings(max_examples=300, deadline=None)
def test_law_7_in_a_mixed_step_nobody_pays_more_of_what_is_shared_than_an_equal_part(
    loads, shared_ns, weights, speeds, rule
) -> None:
    """Prefill chunks beside decodes: the bound on a shared part falls with every newcomer, the part need not.

    Which resource binds depends on everyone present, so a newcomer may make others pay more of what they
    cause themselves (see the next test). But beyond the larger of what its members cause on either resource,
    a class pays for each of them at most launches and weights over the number of those who share them
    (all of them by Shapley's rule, the decodes by the incremental one), and never less than the smaller.
    """
    weights_as = weights * 10**18 // speeds.bytes_per_s
    compute = [load.flops * 10**18 // speeds.flops_per_s for load in loads]
    memory = [load.kv_bytes * 10**18 // speeds.bytes_per_s for load in loads]
    wall_ns = shared_ns + -(-max(sum(compute), weights_as + sum(memory)) // 10**9)
    shares = split_step(loads, wall_ns, weight_bytes=weights, speeds=speeds, rule=rule)
    decodes = [load.phase == "decode" for load in loads]
    payers = sum(decodes) if rule == "incremental" and any(decodes) else len(loads)
    slack = wall_ns + 2 * 10**9 * len(loads)  # floats of the class's value; the length is rounded up
    for phase in ("prefill", "decode"):
        members = [i for i, load in enumerate(loads) if load.phase == phase]
        paid = sum(shares[i].total_as for i in members)
        causes = sum(compute[i] for i in members), sum(memory[i] for i in members)
        sharers = 0 if payers < len(loads) and phase == "prefill" else len(members)
        assert paid <= max(causes) + (shared_ns * 10**9 + weights_as) * sharers // payers + slack
        assert paid >= min(causes) + shared_ns * 10**9 * sharers // payers - slack


def test_a_newcomer_that_makes_the_cache_reads_bind_makes_them_paid_for() -> None:
    """Beside a chunk of 100 ms, reads of 30 ms each are free up to the third decode, not from the fourth."""
    speeds = Speeds(flops_per_s=10**12, bytes_per_s=10**10)
    decode, chunk = Load("decode", 1, 300_000_000), Load("prefill", 10**11, 0)
    three, four = (
        split_step([decode] * n + [chunk], max(100, 30 * n) * 10**6, weight_bytes=0, speeds=speeds)
        for n in (3, 4)
    )
    assert four[0].total_as > three[0].total_as
    assert four[0].total_as < 30 * 10**15, "and still for no more than it causes"


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
    assert totals.residual == NOTHING


def test_steps_and_charges_from_several_threads_add_up(shape: ModelShape, machine: Machine) -> None:
    """One thread steps, three close; nothing is lost between them."""
    account = EngineAccount(shape, machine, ModelledMeter(machine))
    steps, costs, stepped = 300, [], [0]

    def step() -> None:
        for i in range(steps):
            begin = time.monotonic_ns()
            work = tuple(SequenceWork(f"{i // 3}.{j}", "decode", 1, 10 * j, 1) for j in range(5))
            account.add(StepTrace(begin, time.monotonic_ns(), work))
            stepped[0] = i + 1

    def close(part: int) -> None:
        for i in range(part, steps // 3, 3):
            while stepping.is_alive() and i >= stepped[0] // 3 - 1:
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
    assert totals.residual == NOTHING


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


def test_an_amount_with_unknown_energy_makes_the_sum_unknown() -> None:
    assert (Amount(1, None, 2) + Amount(3, 4, 5)) == Amount(4, None, 7)
    assert Amount(1, None, 2).energy_wh is None


@pytest.mark.parametrize("bad", [(-1, [1]), (1, [-1, 3]), (1, [])])
def test_a_split_that_cannot_be_is_refused(bad: tuple[int, list[int]]) -> None:
    with pytest.raises(ValueError, match=r"negative|nobody"):
        split_integer(*bad)
