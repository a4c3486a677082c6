"""Damaged files (RELIABILITY S10): refused or opened, never a signal, a hang or a giant allocation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tuition.export.gguf import export_gguf
from tuition.model.folder import open_model

PROGRAM = Path(__file__).with_name("mutate.py")


def run(folder: Path, tmp_path: Path, count: int, seed: int, mode: str, timeout: float) -> dict[str, float]:
    """Damage `count` files in one process with RLIMIT_AS; it dies of anything that is not a clear error."""
    work = tmp_path / f"work-{seed}"
    work.mkdir()
    arguments = [str(folder), str(tmp_path / "model.gguf"), str(count), str(seed), str(work), mode]
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert ran.returncode == 0, f"ended with {ran.returncode}: {ran.stderr[-3000:]}"
    counts = json.loads(ran.stdout.splitlines()[-1])
    print(f"S10: {count:,} mutations, 0 signals, {counts}")
    return counts


@pytest.fixture
def pair(foreign_folder: Path, tmp_path: Path) -> Path:
    """A folder, and beside it the same model as GGUF."""
    export_gguf(open_model(foreign_folder), tmp_path / "model.gguf", "q8_0")
    return foreign_folder


def test_damaged_files_are_refused_or_opened_and_nothing_else(pair: Path, tmp_path: Path) -> None:
    counts = run(pair, tmp_path, 300, 1, "weights-only", 120)
    assert counts["opened"] + counts["refused"] == 300
    assert counts["refused"] > 100  # else the damage proves nothing


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_twenty_thousand_damaged_files(pair: Path, tmp_path: Path) -> None:
    for seed, mode in enumerate(["weights-only", "with-tokenizer"] * 2, start=2):
        counts = run(pair, tmp_path, 5_000, seed, mode, 600)
        assert counts["opened"] + counts["refused"] == 5_000
