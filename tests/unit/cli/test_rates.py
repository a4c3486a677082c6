"""Which machine a verb charges: the one that computes, at the rate that was named."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tuition.cli import demo_server
from tuition.cli.arguments import parse
from tuition.cli.machine import detect_for
from tuition.cli.serve import Serve
from tuition.core.workspace import Workspace
from tuition.spec import machine as machine_module
from tuition.spec.hardware import Card
from tuition.spec.settings import MachineSettings, OwnedSettings


def test_what_computes_on_the_processor_pays_for_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "find_cards", lambda: [Card(0, "NVIDIA H200", 141 << 30, 700.0)])
    machine = detect_for("cpu", MachineSettings(), Workspace(tmp_path))
    assert (machine.device, machine.gpu_index) == ("cpu", None)
    assert machine.full_watts < 700


def test_the_demo_serves_at_the_rate_at_which_it_teaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else fixed and variable cost would be of two machines, and their crossover of none."""
    started: list[list[str]] = []

    def start(command: list[str], **given: Any) -> None:
        started.append(command)
        raise InterruptedError

    monkeypatch.setattr(demo_server.subprocess, "Popen", start)
    settings = MachineSettings(owned=OwnedSettings(1_400.0), usd_per_kwh=0.31)
    with pytest.raises(InterruptedError), demo_server.serving("bard", Workspace(tmp_path), settings):
        pass
    words = started[0]
    assert words[0] == sys.executable
    given = parse(Serve, words[words.index("serve") + 1 :], verb="serve", description="")
    assert given.machine == settings
