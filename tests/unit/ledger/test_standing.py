"""Idle time and overhead of an engine with several models: each has its part, and the parts are the whole."""

from hypothesis import given
from hypothesis import strategies as st

from tuition.core.amount import NOTHING, Amount
from tuition.ledger.receipts import record_request
from tuition.ledger.render import model_lines
from tuition.ledger.standing import split
from tuition.ledger.statements import statement
from unit.ledger.life import Life
from unit.ledger.rows import record_of

UNIT = st.integers(0, 10**15)
WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10**12), min_size=1)


@given(st.builds(Amount, UNIT, st.none() | UNIT, UNIT), WEIGHTS)
def test_parts_add_up_to_the_last_unit_and_follow_the_weights(amount: Amount, weights: dict) -> None:
    parts = split(amount, weights)
    if amount.energy_uj is not None:
        assert sum(parts.values(), NOTHING) == amount
    assert sum(part.wall_ns for part in parts.values()) == amount.wall_ns
    for name, weight in weights.items():
        wanted = amount.wall_ns * weight / sum(weights.values())
        assert abs(parts[name].wall_ns - wanted) <= 1 + amount.wall_ns * 1e-9  # cut to a unit, in float64


def test_adapters_bear_their_part_of_the_idle_time_of_their_base(begin) -> None:
    """The base alone had it all, and an adapter looked as if its engine were never idle."""
    life: Life = begin()
    with life.periods:
        for name, model, ms in (("a", "bard", 20), ("b", "support", 60)):
            life.step(name, ms=ms)
            life.clock.sleep(100 * 10**6)
            record_request(
                life.books, record_of(life.account.close(name), life.rate_id, model=model)
            ).result()
    found, sheets = life.check(), {sheet.model: sheet for sheet in statement(life.books).models}
    assert found.idle.wall_ns >= 200 * 10**6
    assert sum((sheet.idle for sheet in sheets.values()), NOTHING) == found.idle
    assert sum((sheet.overhead for sheet in sheets.values()), NOTHING) == found.overhead
    assert sheets["support"].idle.wall_ns == found.idle.wall_ns * 3 // 4
    assert abs(sheets["support"].utilisation - sheets["bard"].utilisation) < 1e-6  # parts are cut to a unit
    (line,) = [line for line in model_lines(sheets["support"]) if line.figure == "idle"]
    assert line.how.startswith("its part, by machine time, of its engine's")


def test_an_engine_of_one_model_shares_nothing(life: Life) -> None:
    (sheet,) = statement(life.books).models
    assert (sheet.idle, sheet.overhead, sheet.is_shared) == (life.check().idle, life.check().overhead, False)
