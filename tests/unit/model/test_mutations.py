"""Damaged files (RELIABILITY S10): refused or computed, never a signal, a hang or a giant allocation."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tuition.export.gguf import export_gguf
from tuition.model.decoder import Decoder
from tuition.model.folder import open_model
from tuition.model.save import save_model
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer

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
def pair(small_shape: ModelShape, bpe: Tokenizer, tmp_path: Path) -> Path:
    """A folder as somebody else would publish it, and beside it the same model as GGUF. Heads are as large as
    the native runner needs them.
    """
    shape = replace(small_shape, head_dim=16)
    decoder = Decoder(shape).initialize(0.3, torch.Generator().manual_seed(1))
    folder = save_model(tmp_path / "model", decoder, shape, bpe, dtype="float32")
    (folder / "tuition.json").unlink()
    export_gguf(open_model(folder), tmp_path / "model.gguf", "q8_0")
    return folder


def check(counts: dict[str, float], count: int) -> None:
    """Every mutation counted, and enough of each kind that the run proves something."""
    assert counts["computed"] + counts["opened"] + counts["refused"] == count
    assert counts["refused"] > count / 3
    if importlib.util.find_spec("tuition_kernels") is not None:
        assert counts["computed"] > count / 10


def test_damaged_files_are_refused_or_computed_and_nothing_else(pair: Path, tmp_path: Path) -> None:
    counts = run(pair, tmp_path, 300, 1, "weights-only", 240)
    check(counts, 300)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_twenty_thousand_damaged_files(pair: Path, tmp_path: Path) -> None:
    for seed, mode in enumerate(["weights-only", "with-tokenizer"] * 2, start=2):
        counts = run(pair, tmp_path, 5_000, seed, mode, 600)
        check(counts, 5_000)
