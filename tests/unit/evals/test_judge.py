"""What counts as a right reply, by kind."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuition.evals.function_process import FunctionLimits, FunctionProcess
from tuition.evals.judge import judge, judged
from tuition.evals.task_file import Item, read_task

ORDER = {"item": "desk lamps", "quantity": 12, "price": 2.5, "gift": False}


@pytest.mark.parametrize(
    ("kind", "target", "reply", "score"),
    [
        ("exact", "USD 3.00", " USD 3.00\n", 1),
        ("exact", "USD 3.00", "USD 3.0", 0),
        ("exact", ["yes", "Yes."], "Yes.", 1),
        ("exact", "yes", "Yes", 0),
        ("number", 42, "6 * 7 = 42\n42", 1),
        ("number", 42, "42 of 100", 0),
        ("number", 1234.5, "It is 1,234.50 dollars.", 1),
        ("number", -3, "the answer is -3.", 1),
        ("number", 0.1, "0.1", 1),
        ("number", 3, "three", 0),
        ("number", 5, "pages 3-5", 1),
        ("number", -5, "3 - 8 is -5", 1),
        ("number", 3, "2,3", 1),
        ("number", 1234567, "1,234,567", 1),
        ("number", 0.5, "about .5", 1),
        ("number", 12, "It is 12.", 1),
        ("number", 1500, "1.5e3", 1),
        ("json", ORDER, '{"quantity": 12.0, "item": "desk lamps", "price": 2.5, "gift": false}', 1),
        (
            "json",
            ORDER,
            '```json\n{"item": "desk lamps", "quantity": 12, "price": 2.5, "gift": false}\n```',
            1,
        ),
        ("json", ORDER, '{"item": "desk lamps", "quantity": 12, "price": 2.5, "gift": 0}', 0.75),
        ("json", ORDER, '{"item": "desk lamps", "quantity": "12", "price": 2.5, "gift": false}', 0.75),
        ("json", ORDER, '{"item": "desk lamps", "quantity": 12, "price": 2.5}', 0.75),
        ("json", {"a": 1}, '{"a": 1, "b": 2}', 0.5),
        ("json", {"a": {"b": [1, 2]}}, '{"a": {"b": [1, 2]}}', 1),
        ("json", {"a": {"b": [1, 2]}}, '{"a": {"b": [1, true]}}', 0),
        ("json", ORDER, 'Here it is: {"item": "desk lamps"}', 0),
        ("json", ORDER, "[1]", 0),
        ("json", ORDER, "[" * 100_000, 0),
    ],
)
def test_a_reply_is_judged_by_its_kind(kind: Any, target: Any, reply: str, score: float) -> None:
    assert judge(kind, Item("1", "?", target), reply) == score


def test_a_pattern_is_searched_with_a_limit_on_time(tmp_path: Path) -> None:
    """The first pattern needs 2^40 steps on its reply; the other items are judged all the same."""
    path = tmp_path / "p.task.jsonl"
    targets = [r"^(a|a)*b$", r"^\d{4}$", r"^\d{4}$"]
    rows = [{"task": "p", "kind": "regex"}, *({"prompt": "?", "target": target} for target in targets)]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = read_task(path)
    assert task.function is not None
    with FunctionProcess(*task.function, FunctionLimits(wall_s=1.0)) as function:
        found = [
            judged("regex", item, reply, function)
            for item, reply in zip(task.items, ("a" * 40, "2031", "In 2031"), strict=True)
        ]
    assert found == [(0.0, "counted as wrong: judging it took more than 1 s"), (1.0, None), (0.0, None)]
