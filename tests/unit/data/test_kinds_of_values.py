"""Values of the wrong kind, and keys that come twice: named in words that are not those of a programming
language."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import DataError
from tuition.data.examples import read_examples
from tuition.data.settings import ExampleSettings

ROWS: dict[str, tuple[Any, str]] = {
    "no text": ({"prompt": 1, "completion": 2}, "'prompt' is a number, wanted a text or a list of turns"),
    "NaN": ({"prompt": "a", "completion": float("nan")}, "'completion' is a number, wanted a text or a"),
    "truth": ({"messages": True}, "the field 'messages' is true or false, wanted a list"),
    "number as a row": ("5", "is a number, wanted a JSON object"),
    "text as a row": ('"a"', "is a text, wanted a JSON object"),
    "key twice": ('{"messages": [], "messages": [{"role": "user", "content": "a"}]}',
                  "has the key 'messages' twice, and it is not clear which one counts; remove one of them"),
    "key twice inside": ('{"messages": [{"role": "user", "role": "assistant", "content": "a"}]}',
                         "has the key 'role' twice"),
    "part": ({"messages": [{"role": "user", "content": [3]}]},
             r"content\[0\]' is a number; only text parts are taught"),
    "group": (
        {"prompt": "a", "completion": "b", "customer": [1]},
        "'customer' is a list, wanted a text or a whole number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_the_kind_of_a_value_is_said_in_plain_words(write_jsonl: Callable[..., Path], name: str) -> None:
    row, problem = ROWS[name]
    path = write_jsonl([row])
    form = "pairs" if isinstance(row, dict) and "prompt" in row else "messages"
    group = "customer" if name == "group" else None
    settings = ExampleSettings(paths=(path,), form=form, group_field=group)
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 1: .*{problem}.*; --data.on-bad skip"):
        list(read_examples(settings))
