"""The card's own counter, where there is a card."""

import time

import pytest

from tuition.ledger.meter import open_meter
from tuition.spec.machine import detect_machine


@pytest.mark.gpu
def test_a_card_counts_its_own_energy_within_its_power_limit() -> None:
    """Energy is at most full power x time; that it is at least idle power x time needs the card's true idle
    power, which is only assumed."""
    machine = detect_machine(device="cuda")
    meter = open_meter(machine)
    assert meter.method == "nvml"
    start = meter.start()
    time.sleep(1.0)
    window = meter.stop(start)
    assert window.energy_method == "nvml"
    assert 0 < window.energy_uj <= 1.05 * machine.full_watts * window.wall_ns / 1e3
