"""What counts as a right reply, by kind."""

from typing import Any

import pytest

from tuition.evals.judge import judge
from tuition.evals.task_file import Item

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
        ("regex", r"^\d{4}$", "2031", 1),
        ("regex", r"^\d{4}$", "In 2031", 0),
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
