"""A loaded model's files leave memory: only what was made of them stays."""

import re
import sys
from pathlib import Path

import pytest
import torch

from tuition.model.adapter_settings import AdapterSettings
from tuition.model.decoder import Decoder
from tuition.model.folder import open_model
from tuition.model.load import load_decoder
from tuition.model.lora import load_with_lora
from tuition.model.save import save_model
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe

SHAPE = ModelShape(vocab_size=300, hidden_size=512, num_layers=8, num_heads=8, num_kv_heads=8, head_dim=64,
                   mlp_size=1024, context_length=64)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = Decoder(SHAPE).initialize(generator=torch.Generator().manual_seed(0))
    tokenizer = train_bpe(["the cat sat on the mat"] * 20, SHAPE.vocab_size)
    return save_model(tmp_path_factory.mktemp("models") / "m", weights, SHAPE, tokenizer, dtype="float32")


def resident_of_files() -> int:
    """Bytes of mapped files in memory."""
    found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_files_leave_memory_once_a_model_is_loaded(folder: Path, kind: str) -> None:
    before = resident_of_files()
    opened = open_model(folder)  # reads all of it for the digests
    assert resident_of_files() > before + opened.num_bytes // 2
    loaded = load_decoder(opened) if kind == "full" else load_with_lora(opened, AdapterSettings(rank=2))
    assert resident_of_files() < before + opened.num_bytes // 2
    name = "layers.3.mlp.up.weight"
    weight = loaded.get_submodule(name.removesuffix(".weight")).weight
    assert torch.equal(opened.tensor(name), weight)  # it is read again
