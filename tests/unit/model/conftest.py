"""A tiny model on disk, whole and valid, for tests that damage it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    return train_bpe(["to be or not to be, that is the question\n" * 30], vocab_size=270)


@pytest.fixture(scope="session")
def small_shape(tiny_shape: ModelShape, bpe: Tokenizer) -> ModelShape:
    """With a row for each id, and some that no id uses."""
    return replace(tiny_shape, vocab_size=bpe.vocab_size + 6)


@pytest.fixture
def model_folder(tmp_path: Path, small_shape: ModelShape, bpe: Tokenizer) -> Path:
    """Saved by us, with `tuition.json`."""
    torch.set_num_threads(1)
    decoder = Decoder(small_shape).initialize(0.3, torch.Generator().manual_seed(1))
    return save_model(tmp_path / "model", decoder, small_shape, bpe, {"run_id": "r1"}, dtype="float32")


@pytest.fixture
def foreign_folder(model_folder: Path) -> Path:
    """The same as somebody else would have published it: without `tuition.json`."""
    (model_folder / "tuition.json").unlink()
    return model_folder
