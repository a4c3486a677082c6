"""What `--from` may name beside a registered model, and what a resume takes for it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tuition.books.books import open_books
from tuition.core.errors import CapacityError, DataError, SettingsError
from tuition.core.workspace import open_workspace
from tuition.data.settings import ExampleSettings
from tuition.desk.references import find_reference
from tuition.model.adapter_settings import AdapterSettings
from tuition.model.check import check_model
from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.plan import memory
from tuition.registry.registry import Registry, Version
from tuition.train.run import TrainResult
from unit.train.base_home import BaseHome
from unit.train.home import At, interrupt

LORA = AdapterSettings(rank=4, alpha=12.0, scale="rank-stabilized", matrices=("query", "down"))


@pytest.fixture
def base_home(tmp_path: Path) -> BaseHome:
    return BaseHome(tmp_path)


def versions(home: BaseHome) -> tuple[Version, ...]:
    with open_books(home.workspace) as books:
        return Registry(home.workspace, books).list()


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(result.version.path / "adapter_model.safetensors")


def test_an_adapter_is_taught_further(base_home: BaseHome) -> None:
    """From its own weights: what it was after its run is what it is before the next."""
    first = base_home.run(adapter="lora", lora=LORA, steps=30)
    second = base_home.run(name="further", base="taught", steps=20)
    assert second.changes[0].before == pytest.approx(first.changes[0].after, rel=1e-6)
    assert second.changes[0].after < first.changes[0].after
    lineage = second.version.lineage
    assert (second.version.kind, lineage.parent) == ("adapter", "tiny@1")
    assert (lineage.adapter, lineage.adapter_digest) == ("taught@1", first.version.digest)
    assert weights(second).keys() == weights(first).keys()
    assert {value.shape for value in weights(second).values()} == {
        value.shape for value in weights(first).values()
    }
    config = (second.version.path / "adapter_config.json").read_text()
    assert config == (first.version.path / "adapter_config.json").read_text()
    assert any("begins from taught@1, an adapter of tiny@1" in line for line in base_home.heard.lines)


def test_an_adapter_that_is_taught_further_is_resumed_bit_for_bit(base_home: BaseHome) -> None:
    base_home.run(adapter="lora", lora=LORA, steps=8)
    how = {"name": "further", "base": "taught", "steps": 12}
    whole = base_home.run(**how)
    stopped = base_home.run(listeners=(At(7, interrupt),), **how)
    assert (stopped.status, stopped.num_steps) == ("stopped", 7)
    resumed = base_home.run(resume="newest", **how)
    assert (resumed.run_id, resumed.not_exact) == (stopped.run_id, ())
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert whole.changes == resumed.changes


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lora": AdapterSettings(rank=8)}, "lora.rank: got 8, wanted 4 as taught@1 has it"),
        ({"lora": AdapterSettings(alpha=3.0)}, "lora.alpha: got 3.0, wanted 12.0 as taught@1"),
        (
            {"lora": AdapterSettings(matrices=("key",))},
            "lora.matrices: got 'key', wanted query down as taught@1",
        ),
        (
            {"adapter": "none"},
            "adapter: got 'none', wanted lora: taught@1 is an adapter; .* models merge",
        ),
    ],
)
def test_settings_that_an_adapter_contradicts_are_refused(
    base_home: BaseHome, changes: dict[str, object], problem: str
) -> None:
    base_home.run(adapter="lora", lora=LORA, steps=1)
    runs = list(base_home.workspace.runs.iterdir())
    with pytest.raises(SettingsError, match=problem):
        base_home.run(base="taught", **changes)
    assert list(base_home.workspace.runs.iterdir()) == runs


def test_the_same_settings_and_another_dropout_are_taken(base_home: BaseHome) -> None:
    base_home.run(adapter="lora", lora=LORA, steps=1)
    assert base_home.run(base="taught", lora=replace(LORA, dropout=0.5), steps=1).version.version == 2


def test_the_folder_of_an_adapter_has_to_be_registered(base_home: BaseHome) -> None:
    result = base_home.run(adapter="lora", lora=LORA, steps=1)
    with pytest.raises(SettingsError, match=r"from: got .* wanted a registered adapter: tuition models add"):
        base_home.run(base=str(result.version.path))


def test_a_base_that_is_named_by_its_path_is_registered_for_its_adapter(
    base_home: BaseHome, tmp_path: Path
) -> None:
    base_home.workspace = open_workspace(tmp_path / "empty").create()
    folder = shutil.copytree(base_home.folder, tmp_path / "My Base 1.7")
    result = base_home.run(base=str(folder), adapter="lora", steps=2)
    adapter, base = sorted(versions(base_home), key=lambda version: version.kind)
    assert (base.reference, base.path, base.owned) == ("my-base-1.7@1", folder, False)
    assert (adapter.reference, adapter.lineage.parent) == (result.version.reference, base.reference)
    assert any(f"{folder} is registered as my-base-1.7@1" in line for line in base_home.heard.lines)
    with open_books(base_home.workspace) as books:
        found = find_reference("taught", Registry(base_home.workspace, books))
    assert (found.base.name, found.adapter) == ("my-base-1.7", adapter)
    base_home.run(base=str(folder), adapter="lora", steps=2)  # the same weights: the same version
    assert [version.name for version in versions(base_home)] == ["my-base-1.7", "taught", "taught"]


def test_a_name_that_another_model_has_is_not_taken(base_home: BaseHome, tmp_path: Path) -> None:
    other = save_model(
        tmp_path / "tiny", Decoder(base_home.shape), base_home.shape, base_home.tokenizer, dtype="float32"
    )
    base_home.run(base=str(other), adapter="lora", steps=1)
    linked = next(version for version in versions(base_home) if not version.owned)
    assert linked.name == f"tiny-{linked.digest[:8]}"


def test_a_base_with_another_template_is_another_model(base_home: BaseHome) -> None:
    """Else its adapter would be served with the template of the version that has the same weights."""
    path = base_home.folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"chat_template": "Talk:\n" + config["chat_template"]}))
    result = base_home.run(base=str(base_home.folder), adapter="lora", steps=1)
    assert result.version.lineage.parent == "base@1"
    with open_books(base_home.workspace) as books:
        found = find_reference("taught", Registry(base_home.workspace, books))
    assert found.folder.path == base_home.folder


def test_a_run_that_cannot_begin_registers_no_base(
    base_home: BaseHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_home.workspace = open_workspace(tmp_path / "empty").create()
    how = {"base": str(base_home.folder), "adapter": "lora"}
    bad = base_home.write("bad.jsonl", [{"prompt": "a", "completion": ""}])
    with pytest.raises(DataError):
        base_home.run(data=ExampleSettings(paths=(bad,)), **how)
    monkeypatch.setattr(memory, "available_memory", lambda free=None: 10_000)
    with pytest.raises(CapacityError):
        base_home.run(**how)
    assert versions(base_home) == ()
    assert list(base_home.workspace.runs.iterdir()) == []


def test_a_resume_keeps_the_version_that_the_name_stood_for(base_home: BaseHome, tmp_path: Path) -> None:
    """Also where the name has a newer version by then."""
    stopped = base_home.run(listeners=(At(7, interrupt),), steps=12)
    newer = save_model(
        tmp_path / "newer", Decoder(base_home.shape), base_home.shape, base_home.tokenizer, dtype="float32"
    )
    with open_books(base_home.workspace) as books:
        registry = Registry(base_home.workspace, books)
        registry.add("tiny", newer, digest=check_model(newer).digest)
    resumed = base_home.run(resume="newest", steps=12)
    assert (resumed.run_id, resumed.version.lineage.parent) == (stopped.run_id, "tiny@1")


def test_a_resume_asks_no_hub(base_home: BaseHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy that was registered when the run began is taken."""
    asked = []

    def fetch(registry: Registry, reference: object, progress: object) -> Version:
        asked.append(str(reference))
        return registry.get("tiny")

    monkeypatch.setattr("tuition.registry.registry.fetch", fetch)
    how = {"base": "hf:Org/Tiny", "steps": 12}
    stopped = base_home.run(listeners=(At(7, interrupt),), **how)
    assert set(asked) == {"hf:Org/Tiny"}
    asked.clear()
    resumed = base_home.run(resume="newest", **how)
    assert (resumed.run_id, resumed.version.lineage.parent, asked) == (stopped.run_id, "tiny@1", [])
