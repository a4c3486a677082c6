"""Meters: exact under splitting, monotone between ticks, honest when a counter dies."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.ledger import meter as meter_module
from tuition.ledger.meter import CounterMeter, ModelledMeter, open_meter, rapl_counter
from tuition.ledger.rates import PER_HOUR, Rate

HOUR_NS = 3_600 * 10**9


def test_an_hour_costs_the_hourly_rate_and_its_electricity(make_machine, clock) -> None:
    machine = make_machine(usd_per_hour=0.5, usd_per_kwh=0.2, pue=1.5, full_watts=100.0)
    meter = ModelledMeter(machine, clock)
    start = meter.start()
    clock.sleep(HOUR_NS)
    window = meter.stop(start)
    assert window.energy_uj == 100 * 3_600 * 10**6
    assert window.cost_nusd == pytest.approx((0.5 + 0.1 * 0.2 * 1.5) * 1e9, abs=2)


def test_electricity_inside_the_rate_is_not_counted_twice(make_machine, clock) -> None:
    meter = ModelledMeter(make_machine(usd_per_hour=0.5, electricity_in_rate=True), clock)
    start = meter.start()
    clock.sleep(HOUR_NS)
    assert meter.stop(start).cost_nusd == 500_000_000


@given(st.lists(st.integers(0, 10**14), min_size=1, max_size=9))
@settings(deadline=None)
def test_money_is_exact_under_splitting(points: list[int]) -> None:
    rate, marks = Rate(83_700_001, 271_828_183), [0, *sorted(points)]
    for price in (rate.of_time, rate.of_energy):
        parts = [price(a, b) for a, b in pairwise(marks)]
        assert sum(parts) == price(marks[0], marks[-1])
        assert min(parts) >= 0
    assert rate.of_time(0, PER_HOUR) == 83_700_001


@given(st.lists(st.tuples(st.integers(1, 300_000_000), st.integers(0, 400)), min_size=1, max_size=60))
@settings(deadline=None)
def test_readings_never_run_backwards_and_stay_within_a_tick(
    make_machine, steps: list[tuple[int, int]]
) -> None:
    """A counter that ticks every 100 ms under changing power."""
    now, joules_at = [0], [(0, 0.0)]

    def true_uj(t: int) -> float:
        return max((uj for at, uj in joules_at if at <= t), default=0.0)

    def counter() -> int:
        return int(true_uj(now[0] // 10**8 * 10**8))

    meter = CounterMeter(make_machine(), "nvml", counter, lambda: now[0])
    last, peak = 0, 0
    for length, watts in steps:
        for _ in range(max(1, length // 20_000_000)):
            now[0] += min(length, 20_000_000)
            joules_at.append((now[0], joules_at[-1][1] + watts * min(length, 20_000_000) / 1e3))
            peak = max(peak, watts)
            reading = meter.read()
            assert reading >= last
            last = reading
    assert last <= true_uj(now[0]) + peak * 0.35e6  # one tick of extrapolation and one of waiting


def test_windows_may_lie_in_one_another(make_machine, clock) -> None:
    meter = CounterMeter(make_machine(), "rapl", lambda: clock.now // 100, clock)
    outer = meter.start()
    clock.sleep(5_000)
    inner = meter.start()
    clock.sleep(1_000)
    assert meter.stop(inner).wall_ns == 1_000
    clock.sleep(1_000)
    assert meter.peek(outer).energy_uj == meter.stop(outer).energy_uj == 70
    with pytest.raises(KeyError):
        meter.stop(outer)


def test_a_counter_that_dies_is_modelled_from_there_and_says_so(make_machine, clock) -> None:
    alive = [True]

    def counter() -> int:
        if not alive[0]:
            raise OSError("gone")
        return clock.now // 1_000

    meter = CounterMeter(make_machine(full_watts=50.0), "rapl", counter, clock)
    start = meter.start()
    clock.sleep(10**9)
    before = meter.read()
    alive[0] = False
    meter.read()
    clock.sleep(10**9)
    window = meter.stop(start)
    assert (window.energy_method, meter.method) == ("modelled", "modelled")
    assert "gone" in meter.problem
    assert window.energy_uj == before + 50_000_000


def test_rapl_adds_packages_and_memory_and_survives_a_wrap(tmp_path: Path) -> None:
    def zone(name: str, label: str, value: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "name").write_text(label + "\n")
        (folder / "max_energy_range_uj").write_text("999\n")
        (folder / "energy_uj").write_text(f"{value}\n")
        return folder / "energy_uj"

    package, memory = zone("intel-rapl:0", "package-0", 990), zone("intel-rapl:0:1", "dram", 5)
    core = zone("intel-rapl:0:0", "core", 1)
    read = rapl_counter(tmp_path)
    assert read() == 0
    package.write_text("10\n")  # wrapped: 20 more
    memory.write_text("7\n")
    core.write_text("500\n")  # inside the package already
    assert read() == 22


def test_a_counter_that_may_not_be_read_is_no_counter(tmp_path: Path) -> None:
    assert rapl_counter(tmp_path) is None
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "name").write_text("package-0")
    assert rapl_counter(tmp_path) is None


def test_the_best_meter_that_answers_is_opened(make_machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "rapl_counter", lambda folder: None)
    monkeypatch.setattr(meter_module, "nvml_counter", lambda index: lambda: 9_000)
    assert open_meter(make_machine()).method == "modelled"
    assert open_meter(make_machine(device="cuda", gpu_index=0)).method == "nvml"
    assert open_meter(make_machine(device="mps")).method == "modelled"
    monkeypatch.setattr(meter_module, "rapl_counter", lambda folder: lambda: 9_000)
    assert open_meter(make_machine()).method == "rapl"


def test_a_part_of_a_machine_is_charged_a_part_of_its_counter(
    make_machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = [0]
    monkeypatch.setattr(meter_module, "rapl_counter", lambda folder: lambda: counter[0])
    meter = open_meter(make_machine().divided(4))
    start = meter.start()
    counter[0] = 1_000
    assert meter.stop(start).energy_uj == 250
