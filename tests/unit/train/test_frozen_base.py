"""A frozen base is not in the checkpoints: it is loaded again, and must be the same."""

import shutil
from pathlib import Path

import pytest

from tuition.books.books import open_books
from tuition.core.errors import ModelError
from tuition.model.adapter_settings import AdapterSettings
from tuition.model.check import check_model
from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.registry.registry import Registry
from tuition.runtime.checkpoints import load_latest
from tuition.train.folder import runs_of
from unit.train.base_home import BaseHome
from unit.train.home import At, interrupt


@pytest.fixture
def base_home(tmp_path: Path) -> BaseHome:
    return BaseHome(tmp_path)


@pytest.mark.parametrize("frozen", ["float32", "bfloat16", "int8"])
def test_a_checkpoint_holds_only_what_is_trained(base_home: BaseHome, frozen: str) -> None:
    how = {"adapter": "lora", "lora": AdapterSettings(rank=2, matrices=("query",)), "frozen": frozen}
    base_home.run(listeners=(At(7, interrupt),), steps=12, **how)
    (run,) = runs_of(base_home.workspace)
    checkpoint = load_latest(run.checkpoints)
    assert checkpoint is not None
    kept = {name for name in checkpoint.tensors if name.startswith("model/")}
    assert kept == {
        f"model/layers.{layer}.attention.query.pair.{part}" for layer in range(2) for part in ("down", "up")
    }
    assert base_home.run(resume="newest", steps=12, **how).num_steps == 12


def test_a_linked_base_that_changed_is_found_at_resume(base_home: BaseHome, tmp_path: Path) -> None:
    linked = shutil.copytree(base_home.folder, tmp_path / "linked")
    with open_books(base_home.workspace) as books:
        registry = Registry(base_home.workspace, books)
        registry.add("linked", linked, digest=check_model(linked).digest, files="linked")
    how = {"base": "linked", "adapter": "lora", "steps": 12}
    base_home.run(listeners=(At(7, interrupt),), **how)
    other = save_model(tmp_path / "other", Decoder(base_home.shape), base_home.shape, None, dtype="float32")
    shutil.copy(other / "model.safetensors", linked)
    with pytest.raises(ModelError, match="weights have changed since it was registered"):
        base_home.run(resume="newest", **how)
