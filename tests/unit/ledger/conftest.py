"""A small network, a machine with round figures, a clock that the test moves, books in a temporary folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuition.books.books import Books, open_books
from tuition.core.workspace import Workspace
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import Meter, ModelledMeter
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import record_rate
from tuition.spec.machine import Machine, Origin
from tuition.spec.shape import ModelShape
from unit.ledger.life import Life


class Clock:
    """Nanoseconds that pass only when told to."""

    def __init__(self, now: int = 10**12) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def sleep(self, ns: int) -> None:
        self.now += ns


@pytest.fixture(scope="session")
def shape() -> ModelShape:
    return ModelShape(
        vocab_size=1_000, hidden_size=64, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=16,
        mlp_size=160, context_length=2_048, sliding_window=128, window_layers=(1,),
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_machine() -> Callable[..., Machine]:
    def make(**changes: object) -> Machine:
        figures = {
            "name": "test machine", "device": "cpu", "num_cores": 2, "memory_bytes": 1 << 34,
            "peak_flops": 1e12, "memory_bandwidth": 1e10, "idle_watts": 7.3, "full_watts": 31.7,
            "usd_per_hour": 0.0837, "electricity_in_rate": False, "usd_per_kwh": 0.21, "pue": 1.3,
            "carbon_g_per_kwh": 400.0,
            "origins": {
                "usd_per_hour": Origin("assumed", "a test"), "full_watts": Origin("catalogue", "a test"),
            },
        }  # fmt: skip
        return Machine(**(figures | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def machine(make_machine: Callable[..., Machine]) -> Machine:
    return make_machine()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(tmp_path: Path, database: str) -> Iterator[Books]:
    with open_books(Workspace(tmp_path / "home")) as opened:
        yield opened


@pytest.fixture
def begin(books: Books, shape, machine, clock) -> Callable[..., Life]:
    def begin(meter: Meter | None = None, **options: object) -> Life:
        account = EngineAccount(
            shape, machine, meter or ModelledMeter(machine, clock), clock=clock, **options
        )
        rate_id = record_rate(books, machine)
        writer = Periods(books, account, rate_id, "bard", beat_s=3_600, period_s=0.0)
        return Life(books, clock, account, writer, rate_id)

    return begin


@pytest.fixture
def life(begin) -> Life:
    """Three periods of three requests each; number 0 to 2, and an empty one that was closed."""
    life = begin()
    for number in range(3):
        life.period(number)
    life.periods.close()
    assert life.check().findings == ()
    return life
