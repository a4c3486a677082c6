"""A result is kept as a file and read again; what it says is what its items say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import SettingsError
from tuition.evals.compare import compare
from tuition.evals.report import before_after_row, changes, difference_rows, notes, result_row
from tuition.evals.result import ItemResult, TaskResult, read_result, result_key, write_result
from tuition.evals.task_file import Header, Item, Task


def item(id: str, score: float, **changed: Any) -> ItemResult:
    given = {"reply": f"said {id}", "logprobs": (-1.5, -2.25), "prompt_tokens": 10, "cached_tokens": 4,
             "generated_tokens": 3, "cost_nusd": 6_000, "energy_uj": 20}  # fmt: skip
    return ItemResult(id=id, score=score, **(given | changed))


def result(*scores: float, **changed: Any) -> TaskResult:
    items = tuple(item(str(number), score) for number, score in enumerate(scores))
    given = {"task": "orders", "kind": "json", "task_digest": "d", "model": "tiny@1", "model_digest": "w",
             "method": "greedy", "wall_ns": 10**9, "created_unix_ns": 0, "items": items}  # fmt: skip
    return TaskResult(**(given | changed))


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    kept = result(1.0, 0.25)
    write_result(tmp_path / "r.jsonl", kept)
    assert read_result(tmp_path / "r.jsonl") == replace(kept, taken_over=True)


def test_a_kept_file_in_which_a_figure_was_changed_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_result(path, result(1.0, 0.25))
    text = path.read_text()
    for before, after in (('"score": 0.25', '"score": 1.0'), ("6000", "6"), ("1000000000", "1")):
        assert before in text
        path.write_text(text.replace(before, after, 1))
        assert read_result(path) is None


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]\n", '{"format": 1}\n{"id": "1"}\n', "\xff", '{"format": 0}']
)
def test_a_damaged_file_is_no_result(content: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(content, encoding="latin-1")
    assert read_result(tmp_path / "r.jsonl") is None
    assert read_result(tmp_path / "none.jsonl") is None


def test_a_key_follows_everything_that_decides_a_result() -> None:
    keys = {
        result_key("t", "m", {"engine": {"precision": "int8"}}),
        result_key("t", "m", {"engine": {"precision": "int4"}}),
        result_key("u", "m", {"engine": {"precision": "int8"}}),
        result_key("t", "n", {"engine": {"precision": "int8"}}),
    }
    assert len(keys) == 4
    assert result_key("t", "m", {"a": 1, "b": 2}) == result_key("t", "m", {"b": 2, "a": 1})


def test_wrong_answers_are_paid_by_the_right_ones() -> None:
    found = result(1.0, 0.5, 0.0, 1.0)
    assert found.cost_nusd == 24_000
    assert found.nusd_per_right == 12_000
    assert result(0.5).nusd_per_right is None
    row = result_row(found)
    assert row[:3] == ("orders", "4", "50.0")
    assert row[4] == "62.5"
    assert row[5:7] == ("40", "12")
    assert row[7:] == ("$0.00000600", "$0.0000120")


def test_an_unknown_cost_stays_unknown() -> None:
    found = replace(result(1.0), items=(item("1", 1.0), item("2", 1.0, cost_nusd=None)))
    assert found.cost_nusd is None
    assert result_row(found)[7:] == ("-", "-")


def test_a_score_tells_task_digest_and_error() -> None:
    score = result(1.0, 0.5, 0.0, 1.0).score()
    assert (score.task, score.value, score.num_items, score.data_digest) == ("orders accuracy", 0.5, 4, "d")
    assert score.stderr == 0.25
    assert result(1.0, 1.0).score().stderr is None


def test_a_comparison_pairs_items_and_names_what_changed() -> None:
    a, b = result(1.0, 0.5, 0.0, 0.0), result(0.0, 1.0, 1.0, 0.5)
    found = compare(a, b)
    assert [pair.a.id for pair in found.changed("gained")] == ["1", "2"]
    assert [pair.a.id for pair in found.changed("lost")] == ["0"]
    assert [pair.a.id for pair in found.changed("kept wrong")] == ["3"]
    assert found.accuracy.value == 0.25
    assert found.score is not None
    assert found.score.value == 0.25
    assert [row[0] for row in difference_rows(found)] == ["orders", "orders, fields"]
    assert difference_rows(found)[0][-2:] == ("2", "1")
    items = tuple(Item(str(number), f"Order {number}, please.", {"n": number}) for number in range(4))
    task = Task(Header("orders", "json"), items, "d", Path("orders.jsonl"))
    assert changes(found, task, 1) == [
        "\norders: only b has right 2 items",
        "  1  Order 1, please.",
        "      a: said 1",
        "      b: said 1",
        '      wanted: {"n": 1}',
        "\norders: only a has right 1 items",
        "  0  Order 0, please.",
        "      a: said 0",
        "      b: said 0",
        '      wanted: {"n": 0}',
    ]
    assert changes(found, task, 0) == []
    assert before_after_row(found)[:3] == ("orders", "4", "25.0")


def test_results_of_two_tasks_are_not_compared() -> None:
    with pytest.raises(SettingsError, match="wanted results of the same task"):
        compare(result(1.0), result(1.0, task_digest="e"))


def test_what_was_cut_is_counted_below_the_table() -> None:
    cut = replace(result(1.0), items=(item("1", 0.0, note="were cut at max_tokens"), item("2", 1.0)))
    lines = notes([cut, replace(result(1.0), taken_over=True)])
    assert lines[0] == "orders: 1 of 2 replies were cut at max_tokens"
    assert "kept result of 1970-01-01 00:00Z" in lines[1]
    assert lines[2].startswith("took 1.00 s, $0.0000120; 8 tokens in came from the prefix cache"), lines[2]


def test_what_was_taken_over_is_not_paid_again() -> None:
    lines = notes([replace(result(1.0), taken_over=True)])
    assert lines[1:] == ["nothing was asked again; greedy"]
