"""How much is scored around fine-tuning: a short budget is spent on teaching, not on scores."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tuition.train.recipes import scored
from tuition.train.recipes.finetune_settings import FinetuneEvaluation
from tuition.train.recipes.scored import fitting
from tuition.train.run import TrainResult
from unit.train.base_home import BaseHome
from unit.train.home import At, interrupt

SLOW, FAST = 1e6, 1e15
HELD_OUT = 36


@pytest.fixture
def home(tmp_path: Path) -> BaseHome:
    """Half of its examples are held out, and nothing is said about scores."""
    home = BaseHome(tmp_path)
    data = replace(home.finetune.data, heldout_share=0.5)
    home.finetune = replace(home.finetune, data=data, control_bytes=None, evaluation=FinetuneEvaluation())
    return home


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the speed that is measured."""
    return lambda speed: monkeypatch.setattr(scored, "product_flops_per_s", lambda *_: speed)


def num_scored(result: TrainResult) -> tuple[int, int]:
    """Held-out examples, and documents of the control text."""
    heldout, control = result.changes
    return heldout.num_items, control.num_items


def test_a_short_budget_scores_few_examples_and_says_so(
    home: BaseHome, machine: Callable[[float], None]
) -> None:
    machine(SLOW)
    result = home.run(steps=None, budget="1s")
    assert num_scored(result) == (16, 2)
    (told,) = [line for line in home.heard.lines if "are scored before and after" in line]
    assert f"16 of {HELD_OUT} held-out examples" in told
    assert "a budget of 1s" in told
    assert "--evaluation.examples" in told


def test_what_is_set_is_kept(home: BaseHome, machine: Callable[[float], None]) -> None:
    machine(SLOW)
    evaluation = FinetuneEvaluation(examples=20, probe_examples=9)
    result = home.run(steps=None, budget="1s", evaluation=evaluation, control_bytes=6_144)
    assert num_scored(result) == (20, 3)
    assert [probe.score.num_items for probe in result.probes[:-1]] == [9] * (len(result.probes) - 1)


def test_a_budget_with_time_and_a_run_by_steps_score_all(
    home: BaseHome, machine: Callable[[float], None]
) -> None:
    machine(FAST)
    assert num_scored(home.run(steps=None, budget="1s")) == (HELD_OUT, 12)
    machine(SLOW)
    assert num_scored(home.run(steps=2)) == (HELD_OUT, 12)


def test_a_resume_scores_as_much_as_before(home: BaseHome, machine: Callable[[float], None]) -> None:
    """Also when the machine is faster by then."""
    machine(SLOW)
    stopped = home.run(steps=None, budget="2s", listeners=(At(2, interrupt),))
    machine(FAST)
    resumed = home.run(steps=None, budget="2s", resume="newest")
    assert resumed.run_id == stopped.run_id
    assert num_scored(resumed) == (16, 2)


def test_continued_pretraining_does_so_too(home: BaseHome, machine: Callable[[float], None]) -> None:
    home.continued = replace(home.continued, evaluation=type(home.continued.evaluation)())
    machine(SLOW)
    few = home.run_continued(steps=None, budget="1s").changes[0]
    machine(FAST)
    assert few.num_items <= home.run_continued(steps=None, budget="1s").changes[0].num_items


def test_items_fit_by_their_size() -> None:
    items = [10, 20, 30, 40]
    assert [fitting(items, int, room, 1, 3) for room in (0, 29, 30, 60, 1_000)] == [1, 1, 2, 3, 3]
    assert fitting([], int, 5, 1, 3) == 0
