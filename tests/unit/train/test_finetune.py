"""Fine-tuning from a base: what is taught, what is kept, what is said."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tuition.core.errors import CapacityError, DataError, NotFoundError, SettingsError
from tuition.data.settings import ExampleSettings
from tuition.model.adapter_settings import AdapterSettings, adaptable
from tuition.model.folder import open_model
from tuition.plan import memory
from tuition.plan.memory import TunedWeights, tuning_memory
from tuition.spec.counts import num_parameters
from tuition.tokenizer.taught import taught_conversation
from tuition.train.change import Measured, change
from tuition.train.header import OtherDataError
from unit.train.base_home import BaseHome, conversations
from unit.train.home import At, interrupt


@pytest.fixture
def base_home(tmp_path: Path) -> BaseHome:
    return BaseHome(tmp_path)


def test_a_base_is_taught_compared_and_registered(base_home: BaseHome) -> None:
    result = base_home.run(steps=40)
    heldout, control = result.changes
    assert (heldout.what, control.what) == ("held-out loss", "control text")
    assert heldout.after < 0.5 * heldout.before
    assert heldout.interval is not None
    assert heldout.interval[1] < 0
    lineage = result.version.lineage
    assert (lineage.parent, lineage.parent_digest, lineage.recipe) == (
        "tiny@1",
        base_home.base.digest,
        "finetune",
    )
    assert lineage.corpus_digest
    scores = base_home.scores(result.version)
    assert scores == {"held-out loss": heldout.after, "control text": control.after}
    assert any("begins from tiny@1" in line for line in base_home.heard.lines)


def test_what_is_served_is_what_was_taught(base_home: BaseHome) -> None:
    """Tokenizer, template and generation defaults are the base's own files, byte for byte."""
    result = base_home.run(steps=2)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"):
        assert (result.version.path / name).read_bytes() == (base_home.folder / name).read_bytes()
    served = open_model(result.version.path)
    assert served.generation == open_model(base_home.folder).generation
    now = datetime(2026, 1, 1)
    for row in conversations()[:5]:
        (taught,) = taught_conversation(base_home.tokenizer, row["messages"], now=now)
        prompt = served.tokenizer().render_chat(row["messages"][:1])
        num_prompt = int(taught.taught.argmax())
        assert taught.ids[:num_prompt].tolist() == prompt


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_run_that_is_resumed_gives_the_same_bits(base_home: BaseHome, adapter: str) -> None:
    """Weights, and the best of them: those of the third evaluation are kept in both."""
    how = {"adapter": adapter, "steps": 12}
    whole = base_home.run(**how)
    stopped = base_home.run(listeners=(At(7, interrupt),), **how)
    assert (stopped.status, stopped.num_steps) == ("stopped", 7)
    resumed = base_home.run(resume="newest", **how)
    assert (resumed.run_id, resumed.not_exact) == (stopped.run_id, ())
    name = "model.safetensors" if adapter == "none" else "adapter_model.safetensors"
    weights = [load_file(result.version.path / name) for result in (whole, resumed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert whole.changes == resumed.changes
    assert whole.kept_step == resumed.kept_step


def test_a_template_that_writes_a_date_writes_that_of_the_run_after_a_resume_too(base_home: BaseHome) -> None:
    path = base_home.folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = "{{ strftime_now('%d %b %Y') }}\n" + config["chat_template"]
    path.write_text(json.dumps(config))
    how = {"base": str(base_home.folder), "adapter": "none"}
    stopped = base_home.run(listeners=(At(7, interrupt),), **how)
    kept = stopped.folder / "moment.json"
    moment = kept.read_text()
    kept.write_text('"2020-02-03T10:00:00"')
    with pytest.raises(OtherDataError):
        base_home.run(resume="newest", **how)
    kept.write_text(moment)
    assert base_home.run(resume="newest", **how).run_id == stopped.run_id


def test_the_best_weights_are_kept_when_later_ones_are_worse(base_home: BaseHome) -> None:
    """A learning rate that rises to a ruinous one: the first evaluation is the best."""
    schedule = replace(base_home.settings.schedule, warmup=1.0, decay=0.0, floor=0.0)
    optimizer = replace(base_home.settings.optimizer, lr=0.8)
    result = base_home.run(schedule=schedule, optimizer=optimizer, steps=18)
    interim = {probe.step: probe.score.value for probe in result.probes[:-1]}
    best = min(interim, key=lambda step: interim[step])
    assert best < 18
    assert result.kept_step == best
    assert result.probes[-1].score.value == pytest.approx(interim[best], rel=1e-6)
    assert json.loads((result.version.path / "tuition.json").read_text())["kept_step"] == best


def test_an_epoch_teaches_every_example_once(base_home: BaseHome) -> None:
    result = base_home.run(steps=None, epochs=2)
    taught = result.num_units
    once = base_home.run(steps=None, epochs=1)
    assert taught == 2 * once.num_units


def test_an_adapter_is_registered_beside_its_base(base_home: BaseHome) -> None:
    result = base_home.run(adapter="lora", lora=AdapterSettings(rank=4), steps=30)
    assert result.version.kind == "adapter"
    assert result.version.lineage.parent == "tiny@1"
    assert (result.version.path / "adapter_config.json").is_file()
    heldout = result.changes[0]
    assert heldout.after < heldout.before


def test_continued_pretraining_keeps_the_tokenizer(base_home: BaseHome) -> None:
    result = base_home.run_continued(steps=30)
    assert result.changes[0].unit == "bits per byte"
    assert result.changes[0].after < result.changes[0].before
    name = "tokenizer.json"
    assert (result.version.path / name).read_bytes() == (base_home.folder / name).read_bytes()
    assert open_model(result.version.path).shape == base_home.shape


REFUSED = {
    "no base": ({"base": None}, SettingsError, "from: nothing given, wanted the model to begin from"),
    "unknown base": ({"base": "other"}, NotFoundError, "other"),
    "lora settings without lora": (
        {"lora": AdapterSettings(rank=2)}, SettingsError, "lora.rank: got 2, wanted --adapter lora beside it"
    ),
    "a rank above the matrices": (
        {"adapter": "lora", "lora": AdapterSettings(rank=33)}, SettingsError,
        "lora.rank: got 33, wanted at most 32, the smaller side of the largest matrix that is adapted",
    ),
    "longer than the base reads": ({"longest": 129}, SettingsError, "at most 128"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_hold_is_refused_before_a_run_is_recorded(base_home: BaseHome, name: str) -> None:
    changes, error, problem = REFUSED[name]
    with pytest.raises(error, match=problem):
        base_home.run(**changes)
    assert not base_home.workspace.runs.exists()


def test_more_epochs_than_steps_can_be_counted_are_refused(base_home: BaseHome) -> None:
    with pytest.raises(
        SettingsError, match=r"epochs: got 1000000000\.0, wanted fewer: [\d,]+ steps are more"
    ):
        base_home.run(steps=None, epochs=1e9)
    assert not list(base_home.workspace.runs.iterdir())


def test_plain_text_is_not_fine_tuned(base_home: BaseHome) -> None:
    with pytest.raises((SettingsError, DataError), match="continue"):
        base_home.run(data=ExampleSettings(paths=(base_home.text(),)))


def test_nothing_of_a_run_with_bad_examples_is_left(base_home: BaseHome) -> None:
    rows = conversations()
    rows[4]["messages"][1]["content"] = ""
    with pytest.raises(DataError, match=r"line 5"):
        base_home.run(data=ExampleSettings(paths=(base_home.write("bad.jsonl", rows),)))
    assert not list(base_home.workspace.runs.iterdir())


def test_a_change_is_paired_by_item() -> None:
    """Two models that differ by a tenth on every item: the items' spread is not noise."""
    sizes = (10, 20, 30, 40)
    before = Measured("loss", "nats", "", (10.0, 60.0, 30.0, 120.0), sizes, 100)
    after = replace(
        before, sums=tuple(value - 0.1 * size for value, size in zip(before.sums, sizes, strict=True))
    )
    found = change(before, after)
    assert found.difference == pytest.approx(-0.1)
    assert found.difference_stderr == pytest.approx(0.0, abs=1e-9)
    assert found.before_stderr is not None
    assert found.before_stderr > 0.1
    with pytest.raises(ValueError, match="same items"):
        change(before, replace(after, sizes=(1, 2, 3, 4)))


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_activations_are_recomputed_where_memory_asks_for_it(
    base_home: BaseHome, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    """The same weights to the last bit, and it is said."""
    kept = base_home.run(adapter=adapter)
    shape, total = base_home.shape, num_parameters(base_home.shape)
    pairs = AdapterSettings().rank * sum(map(sum, map(shape.tensor_shapes().get, adaptable(shape))))
    weights = TunedWeights(0, total) if adapter == "none" else TunedWeights(2 * total, pairs)
    most = tuning_memory(shape, weights, 256, 1, 1, recomputes=False).total
    monkeypatch.setattr(memory, "available_memory", lambda free=None: most - 1)
    recomputed = base_home.run(adapter=adapter)
    assert any("computed twice" in line for line in base_home.heard.lines)
    name = "model.safetensors" if adapter == "none" else "adapter_model.safetensors"
    found = [load_file(result.version.path / name) for result in (kept, recomputed)]
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_base_that_does_not_fit_is_refused(base_home: BaseHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda free=None: 10_000)
    with pytest.raises(CapacityError, match="--adapter lora"):
        base_home.run()
