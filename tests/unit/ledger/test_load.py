"""What other work had of the machine, from samples of the kernel's counts."""

from pathlib import Path

import pytest

from tuition.ledger import load
from tuition.ledger.load import LoadSample, MachineLoad, read_load

MS = 1_000_000


def sampled(*samples: tuple[int, int, int]) -> MachineLoad:
    """Samples of (ms, capacity in ms of CPU time, other work in ms)."""
    waiting = [LoadSample(time * MS, capacity * MS, others * MS) for time, capacity, others in samples]
    machine = MachineLoad(lambda now_ns: waiting.pop(0))
    for time, _, _ in samples:
        machine.sample(time * MS)
    return machine


def test_the_share_is_that_of_the_samples_around_the_work() -> None:
    machine = sampled((0, 0, 0), (1_000, 2_000, 0), (2_000, 4_000, 1_000), (3_000, 6_000, 1_000))
    assert machine.others_ppm(1_100 * MS, 1_900 * MS) == 500_000
    assert machine.others_ppm(100 * MS, 900 * MS) == 0
    assert machine.others_ppm(900 * MS, 1_100 * MS) == 250_000
    assert machine.others_ppm(2_500 * MS, 9_000 * MS) == 0, "nothing is known yet of what comes after"


def test_without_two_samples_nothing_is_known() -> None:
    assert sampled().others_ppm(0, 1) is None
    assert sampled((0, 0, 0)).others_ppm(0, 1) is None
    assert sampled((0, 0, 0), (1_000, 0, 0)).others_ppm(0, 1) is None, "the kernel has not counted on"


def test_fresh_samples_are_not_taken_again() -> None:
    taken = []

    def read(now_ns: int) -> LoadSample:
        taken.append(now_ns)
        return LoadSample(now_ns, now_ns, 0)

    machine = MachineLoad(read)
    for now in (0, 50, 150, 250, 300):
        machine.sample(now * MS)
    assert taken == [0, 250 * MS]


def test_the_kernels_count_is_read_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(load, "STAT", stat)
    assert read_load(1) is None
    stat.write_text("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 ...\n")
    found = read_load(7)
    assert (found.time_ns, found.capacity_ns) == (7, 1_000 * 10 * MS)
    assert found.others_ns < 150 * 10 * MS
    stat.write_text("nonsense\n")
    assert read_load(1) is None
