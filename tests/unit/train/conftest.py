"""Tiny models compute faster on one thread than two threads wait for each other; a workspace for a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tuition.ledger import training
from unit.train.home import Home


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bill is saved with checkpoints only, not every few seconds."""
    monkeypatch.setattr(training, "SAVE_EVERY_S", 3_600.0)
