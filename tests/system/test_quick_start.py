"""A model whose packed weights are kept starts without torch, from the command line and from Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe

pytest.importorskip("tuition_kernels", reason="the native kernels are not built here")

SHAPE = ModelShape(280, 64, 2, 2, 2, 32, 96, 64)
COMMAND_LINE = """
import sys
from tuition.cli.main import main
assert main(["generate", sys.argv[1], "to be", "--max-tokens", "3", "--engine.device", "cpu"]) == 0
print("torch" in sys.modules)
"""
PYTHON = """
import sys
from tuition import Engine, EngineSettings
with Engine(sys.argv[1], settings=EngineSettings(device="cpu")) as engine:
    assert engine.generate("to be", max_tokens=3)[0].num_generated >= 1
print("torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_bpe(["to be or not to be, that is the question\n" * 30], vocab_size=270)
    decoder = Decoder(SHAPE).initialize(0.3, torch.Generator().manual_seed(1))
    return save_model(tmp_path_factory.mktemp("quick") / "model", decoder, SHAPE, tokenizer)


def last_line(program: str, model: Path, home: Path) -> str:
    """What a fresh interpreter prints last."""
    environment = os.environ | {"TUITION_HOME": str(home)}
    command = [sys.executable, "-c", program, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@pytest.fixture(scope="module")
def packed_home(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the model's packed weights."""
    home = tmp_path_factory.mktemp("home")
    assert last_line(COMMAND_LINE, model_path, home) == "True", "packing computes, with torch"
    return home


@pytest.mark.parametrize("program", [COMMAND_LINE, PYTHON], ids=["command line", "python"])
def test_packed_weights_start_without_torch(program: str, model_path: Path, packed_home: Path) -> None:
    assert last_line(program, model_path, packed_home) == "False"
