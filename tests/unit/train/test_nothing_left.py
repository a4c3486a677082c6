"""Bad input of fine-tuning: one line that names it, and nothing half-made."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tuition.books.books import open_books
from tuition.books.schema import runs
from tuition.core.errors import DataError, ModelError, TuitionError
from tuition.data.settings import ExampleSettings
from tuition.registry.registry import Registry
from unit.train.base_home import TEMPLATE, BaseHome, conversations


@pytest.fixture
def base_home(tmp_path: Path) -> BaseHome:
    return BaseHome(tmp_path)


def with_rows(*rows: dict[str, Any]) -> Callable[[BaseHome], dict[str, Any]]:
    def changes(home: BaseHome) -> dict[str, Any]:
        return {"data": ExampleSettings(paths=(home.write("bad.jsonl", rows),))}

    return changes


def held_out(*rows: dict[str, Any]) -> Callable[[BaseHome], dict[str, Any]]:
    def changes(home: BaseHome) -> dict[str, Any]:
        path = home.write("held.jsonl", rows)
        return {"data": replace(home.finetune.data, heldout_paths=(path,))}

    return changes


def longest(most: int, too_long: Any) -> Callable[[BaseHome], dict[str, Any]]:
    def changes(home: BaseHome) -> dict[str, Any]:
        return {"longest": most, "data": replace(home.finetune.data, too_long=too_long)}

    return changes


def template(text: str) -> Callable[[BaseHome], dict[str, Any]]:
    def changes(home: BaseHome) -> dict[str, Any]:
        path = home.folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": text}))
        return {"base": str(home.folder), "adapter": "lora"}

    return changes


PAIR = {"prompt": "2 + 2", "completion": "4"}
BAD: dict[str, tuple[Callable[[BaseHome], dict[str, Any]], type[TuitionError], str]] = {
    "an empty completion": (
        with_rows(PAIR, PAIR | {"completion": " "}), DataError,
        r"bad\.jsonl, line 2: the field 'completion' is empty; .*--data\.on-bad skip",
    ),
    "completions that are all empty": (
        with_rows(*[PAIR | {"completion": ""}] * 3), DataError, r"line 1: the field 'completion' is empty",
    ),
    "an empty reply": (
        with_rows({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}),
        DataError, "line 1: turn 2 is an empty reply of the assistant",
    ),
    "too few examples": (with_rows(PAIR), DataError, "too few to hold some out .*--data.heldout-paths"),
    "no held-out row": (held_out(), DataError, r"held\.jsonl.*empty"),
    "a held-out part without examples": (
        held_out({"messages": []}), DataError, r"held\.jsonl, line 1: the field 'messages' holds no turns",
    ),
    "all is held out": (held_out(*conversations()), DataError, "leaves nothing to teach"),
    "all too long": (
        longest(4, "refuse"), DataError, "72 of 72 examples have more than 4 tokens .*--data.too-long cut",
    ),
    "all too long, left out": (
        longest(4, "leave-out"), DataError, "no example has a turn of the assistant within 4 tokens",
    ),
    "a template without an end": (
        template("{% for m in messages %}{{ m.content }}{% endfor %}"), ModelError,
        "none of its tokens ends a reply, so a model would never stop; correct the template",
    ),
    "a template that writes another prompt": (
        template(TEMPLATE.replace("<|im_start|>assistant", "<|im_start|>bot")), ModelError,
        "does not write the reply after its own prompt",
    ),
    "a template that is broken": (template("{% for m in"), ModelError, "the chat template is broken"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_leaves_nothing(base_home: BaseHome, name: str) -> None:
    made, error, problem = BAD[name]
    with open_books(base_home.workspace) as books:
        registry = Registry(base_home.workspace, books)
        registry.remove("tiny@1")  # a base that is named by its path would be registered for its adapter
    changes = {"base": str(base_home.folder), "adapter": "lora"} | made(base_home)
    with pytest.raises(error, match=problem) as raised:
        base_home.run(**changes)
    assert "\n" not in str(raised.value)
    runs_folder = base_home.workspace.runs
    assert not runs_folder.exists() or not list(runs_folder.iterdir())
    with open_books(base_home.workspace) as books:
        assert Registry(base_home.workspace, books).list() == ()
        statuses = books.read(lambda connection: connection.execute(select(runs.c.status)).scalars().all())
    assert set(statuses) <= {"failed"}
    assert not list(base_home.workspace.models.glob("*/*"))
