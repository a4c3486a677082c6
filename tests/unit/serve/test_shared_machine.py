"""What a call costs beside a second model: the rule that docs/how-to/read-the-bill.md explains."""

import pytest

from tuition.core.amount import Amount
from tuition.core.records import SequenceWork, StepTrace
from tuition.core.units import NS_PER_S
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import ModelledMeter
from tuition.serve.lookups import busy_hour
from tuition.spec.machine import Machine, detect_machine
from tuition.spec.shape import ModelShape


def hour_of(shape: ModelShape, machine: Machine, *, works: bool) -> tuple[EngineAccount, Amount, Amount]:
    """An account, what its one call paid, and what the hour came to, of which it took a quarter."""
    now = 0
    account = EngineAccount(shape, machine, ModelledMeter(machine, lambda: now), clock=lambda: now)
    if works:
        account.add(StepTrace(0, 900 * NS_PER_S, (SequenceWork("call", "prefill", 4, 0, 1),)))
    paid = account.close("call").total
    now = 3_600 * NS_PER_S
    return account, paid, account.drain_period().meter


def test_beside_an_idle_model_a_call_costs_half_and_the_other_half_is_that_models_idle_time(
    tiny_shape: ModelShape,
) -> None:
    machine = detect_machine()
    alone, paid_alone, whole = hour_of(tiny_shape, machine, works=True)
    share = machine.divided(2)
    account, paid, worked = hour_of(tiny_shape, share, works=True)
    _, _, idled = hour_of(tiny_shape, share, works=False)
    rounding = 2  # of each window, to a billionth of a dollar
    assert paid.cost_nusd == pytest.approx(paid_alone.cost_nusd / 2, abs=rounding)
    assert paid.wall_ns == paid_alone.wall_ns
    assert worked.cost_nusd + idled.cost_nusd == pytest.approx(whole.cost_nusd, abs=rounding)
    assert busy_hour(account)["usd"] == pytest.approx(busy_hour(alone)["usd"] / 2)
