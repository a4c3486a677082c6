"""Settings of a run: torch-free, honest about what does not fit, the same after a trip through TOML."""

import math
import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest

from tuition.core.errors import SettingsError
from tuition.core.settings import from_table, table_to_toml, to_table
from tuition.model.adapter_settings import AdapterSettings
from tuition.runtime.device import Precision, choose_precision
from tuition.train.header import changed_settings, check_same_data, make_header, why_not_exact
from tuition.train.recipes.continued_settings import ContinuedSettings
from tuition.train.recipes.finetune_settings import FinetuneSettings
from tuition.train.recipes.pretrain_settings import EvaluationSettings, PretrainSettings, ShapeSettings
from tuition.train.settings import CheckpointSettings, GuardSettings, OptimizerSettings, TrainSettings

torch = pytest.importorskip("torch")
SETTINGS = TrainSettings(
    name="bard", steps=5, optimizer=OptimizerSettings(lr=2e-3), checkpoints=CheckpointSettings(keep=3)
)


def test_settings_need_no_torch() -> None:
    modules = "tuition.train.recipes.table, tuition.train.settings, tuition.train.schedule"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_toml_gives_the_same_settings_back() -> None:
    for settings in (SETTINGS, PretrainSettings(vocab_size=1_024, seq_len=64)):
        assert from_table(type(settings), tomllib.loads(table_to_toml(to_table(settings)))) == settings


@pytest.mark.parametrize(
    ("kind", "field", "changes"),
    [
        (TrainSettings, "budget", {"budget": "4"}),
        (
            TrainSettings,
            "budget: got '--budget 4min and --steps 3', wanted one of --budget, --steps and --epochs",
            {"budget": "4min", "steps": 3},
        ),
        (TrainSettings, r"epochs: got 1e\+300, wanted more than 0, at most", {"epochs": 1e300}),
        (FinetuneSettings, "from: got '', wanted the model", {"base": ""}),
        (
            FinetuneSettings,
            "lora.rank: got 4, wanted --adapter lora beside it",
            {"adapter": "none", "lora": AdapterSettings(rank=4)},
        ),
        (FinetuneSettings, "frozen: got 'int8', wanted --adapter l", {"adapter": "none", "frozen": "int8"}),
        (
            ContinuedSettings,
            r"lora.alpha: got 1e\+39, wanted at most 1,000,000",
            {"lora": AdapterSettings(alpha=1e39)},
        ),
        (TrainSettings, "steps", {"steps": 0}),
        (TrainSettings, "threads", {"threads": 0}),
        (PretrainSettings, "vocab_size", {"vocab_size": 100}),
        (PretrainSettings, "seq_len", {"seq_len": 600, "shape": ShapeSettings(context_length=512)}),
    ],
)
def test_what_cannot_be_is_refused_by_name(kind: type, field: str, changes: dict) -> None:
    with pytest.raises(SettingsError, match=field):
        kind(**changes)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (TrainSettings, "threads", 100_000),
        (TrainSettings, "seed", 10**30),
        (PretrainSettings, "vocab_size", 10**11),
        (PretrainSettings, "batch_size", 10**11),
        (PretrainSettings, "vocab_size", 2**31 - 1),  # the tokenizer's trainer would end the process
        (TrainSettings, "accumulation", 2**31 - 1),
        (ShapeSettings, "num_heads", 0),
        (ShapeSettings, "num_heads", -2),
        (ShapeSettings, "hidden_size", 0),
        (ShapeSettings, "num_layers", -1),
        (ShapeSettings, "hidden_size", 33),
        (ShapeSettings, "num_kv_heads", 0),
        (ShapeSettings, "mlp_size", 10**30),
        (ShapeSettings, "context_length", 0),
        (OptimizerSettings, "lr", math.inf),
        (OptimizerSettings, "max_grad_norm", math.nan),
        (EvaluationSettings, "temperature", math.inf),
        (GuardSettings, "history", 0),
        (GuardSettings, "most_skipped", 0),
        (GuardSettings, "gradient_factor", math.nan),
    ],
)
def test_numbers_out_of_all_bounds_are_refused_before_anything_is_done(
    kind: type, field: str, value: object
) -> None:
    with pytest.raises(SettingsError, match=field):
        kind(**{field: value})


def test_a_width_that_heads_do_not_divide_is_refused_with_both_numbers() -> None:
    with pytest.raises(SettingsError, match=r"100.*2 x num_heads \(6\)"):
        ShapeSettings(hidden_size=100, num_heads=3)
    with pytest.raises(SettingsError, match=r"num_kv_heads: got 3, wanted a divisor of num_heads \(4\)"):
        ShapeSettings(num_heads=4, num_kv_heads=3)


def header(settings: TrainSettings = SETTINGS, corpus: str = "c" * 64) -> dict:
    digests = {"corpus": corpus, "tokenizer": "t" * 64}
    return make_header(to_table(settings), Precision(torch.float32, ""), digests)


def test_another_text_is_refused_on_resume() -> None:
    with pytest.raises(SettingsError, match="corpus"):
        check_same_data(header(), header(corpus="d" * 64), {"corpus": "d" * 64})


def test_checkpoints_evaluation_threads_and_budget_may_change_on_resume_and_nothing_else() -> None:
    def changed(before: TrainSettings | PretrainSettings, now: TrainSettings | PretrainSettings) -> dict:
        return changed_settings(to_table(before), to_table(now))

    free = replace(SETTINGS, threads=1, checkpoints=CheckpointSettings(keep=9), steps=None, budget="9min")
    assert changed(replace(SETTINGS, steps=None, budget="4min"), free) == {}
    taught = PretrainSettings()
    assert changed(taught, replace(taught, evaluation=EvaluationSettings(times=9))) == {}
    assert changed(taught, replace(taught, seq_len=9)) == {"seq_len": (None, 9)}
    assert changed(SETTINGS, replace(SETTINGS, steps=6)) == {"steps": (5, 6)}
    other = replace(SETTINGS, optimizer=OptimizerSettings(lr=3e-3))
    assert changed(SETTINGS, other) == {"optimizer.lr": (2e-3, 3e-3)}


def test_exactness_is_not_claimed_when_the_machine_differs() -> None:
    then, now = header(), header()
    assert why_not_exact(then, now) == []
    then["machine"] |= {"threads": 64, "torch": "1.0", "cpu_flags": ["mmx"]}
    assert len(why_not_exact(then, now)) == 3
    assert why_not_exact(header(), header(TrainSettings(budget="4min")))[0].startswith("the clock")


def test_float32_can_always_be_asked_for_and_auto_gives_its_reason() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("float32", cpu).dtype is torch.float32
    assert "this CPU" in choose_precision("auto", cpu).reason
