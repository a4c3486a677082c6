"""Task files: every field is honoured or refused with file, line and name."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import DataError
from tuition.evals.task_file import Header, read_task, task_text

GOOD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "choice": ({"task": "t", "kind": "choice"}, {"prompt": "?", "choices": ["a", "b"], "right": 1}),
    "exact": ({"task": "t", "kind": "exact"}, {"prompt": "?", "target": "a"}),
    "number": ({"task": "t", "kind": "number"}, {"prompt": "?", "target": 3}),
    "regex": ({"task": "t", "kind": "regex"}, {"prompt": "?", "target": "a+"}),
    "json": ({"task": "t", "kind": "json", "form": "chat"}, {"messages": [{"role": "user", "content": "?"}],
             "target": {"a": 1}}),
}  # fmt: skip


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", GOOD)
def test_each_kind_is_read(kind: str, tmp_path: Path) -> None:
    header, item = GOOD[kind]
    task = read_task(written(tmp_path / "t.jsonl", header, "", item, item | {"id": "x", "note": "of mine"}))
    assert task.header.kind == kind
    assert [each.id for each in task.items] == ["3", "x"]
    assert task.items[0].choices == tuple(item.get("choices", ()))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    header = Header("orders", "json", form="chat", system="Do.", max_tokens=9, stop=("\n",))
    (tmp_path / "t.jsonl").write_text(task_text(header, [{"prompt": "?", "target": {"a": 1}}]))
    assert read_task(tmp_path / "t.jsonl").header == header


def test_the_digest_is_of_what_decides_the_result(tmp_path: Path) -> None:
    header, item = GOOD["exact"]
    first = read_task(written(tmp_path / "a.jsonl", header, item)).digest
    assert read_task(written(tmp_path / "b.jsonl", header, "", item)).digest == first
    assert read_task(written(tmp_path / "b.jsonl", header, item | {"target": "b"})).digest != first
    assert read_task(written(tmp_path / "b.jsonl", header | {"max_tokens": 9}, item)).digest != first


def test_the_digest_follows_the_function_of_the_user(tmp_path: Path) -> None:
    header = {"task": "t", "kind": "python", "function": "own.py:judge"}
    path = written(tmp_path / "t.jsonl", header, {"prompt": "?", "whatever": 1})
    with pytest.raises(DataError, match=r"line 1: function: .*own\.py cannot be read"):
        read_task(path)
    (tmp_path / "own.py").write_text("def judge(item, reply): return True\n")
    first = read_task(path).digest
    (tmp_path / "own.py").write_text("def judge(item, reply): return False\n")
    assert read_task(path).digest != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "jsn"}, "line 1: header: kind: got 'jsn', wanted 'choice' or "),
        ({"kind": None}, "line 1: header: kind: nothing given, wanted "),
        ({"max_token": 5}, r"header: max_token: got 5, wanted one of .*did you mean max_tokens\?"),
        ({"max_tokens": 0}, "max_tokens: got 0, wanted at least 1"),
        ({"max_tokens": "9"}, "max_tokens: got '9', wanted a whole number or left out"),
        ({"stop": "x"}, "stop: got 'x', wanted a list of texts"),
        ({"stop": [""]}, "stop: got .*, wanted texts that are not empty"),
        ({"normalize": "bytes"}, "normalize: got 'bytes', wanted it only with kind choice, which is exact"),
        ({"function": "a.py:b"}, "function: got .*, wanted it only with kind python"),
        ({"system": "Do."}, "system: got .*, wanted it only with form chat"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs: got {}, wanted it only with form chat"),
        ({"task": " "}, "task: got ' ', wanted a name"),
        ({"task": "a\x1b[2Jb"}, "task: got .*, wanted a name of 1 to 64 printable characters"),
        ({"task": "a" * 65}, "task: got .*, wanted a name of 1 to 64 printable characters"),
    ],
)
def test_a_bad_header_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    header, item = GOOD["exact"]
    changed = {name: value for name, value in (header | change).items() if value is not None}
    with pytest.raises(DataError, match=message):
        read_task(written(tmp_path / "t.jsonl", changed, item))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("exact", {"target": ""}, "line 2: target: got '', wanted a text"),
        ("exact", {"target": None}, "line 2: target: wanted it in every item of kind 'exact'"),
        ("exact", {"prompt": None}, "line 2: prompt: wanted a prompt or messages"),
        ("exact", {"prompt": 3}, "line 2: prompt: got 3, wanted a text"),
        ("exact", {"targets": "a"}, "line 2: targets: not a field of an item"),
        ("exact", {"right": 0}, "line 2: right: wanted it left out of kind 'exact'"),
        ("number", {"target": "3"}, "target: got '3', wanted a finite number"),
        ("number", {"target": math.nan}, "target: got nan, wanted a finite number"),
        ("exact", {"id": "\ud800"}, "line 2: holds half of a surrogate pair"),
        ("number", {"target": True}, "target: got True, wanted a finite number"),
        ("regex", {"target": "("}, "target: '\\(' is not a pattern"),
        ("regex", {"target": "(" * 5_000}, "target: '\\(*' is not a pattern: maximum recursion"),
        ("regex", {"target": "a{%s}" % 10**20}, "is not a pattern: the repetition number is too large"),
        ("json", {"target": []}, "target: got \\[\\], wanted an object"),
        ("json", {"messages": []}, "messages: got \\[\\], wanted a list of messages"),
        ("json", {"messages": [{"role": "assistant", "content": "a"}]}, "messages: the last one is of the"),
        ("choice", {"choices": ["a"]}, "choices: got .*, wanted at least two texts"),
        ("choice", {"right": 2}, "right: got 2, wanted the index of a choice, 0 to 1"),
        ("choice", {"right": True}, "right: got True, wanted the index"),
        ("choice", {"target": "a"}, "target: wanted it left out of kind 'choice'"),
        (
            "choice",
            {"messages": [{"role": "user", "content": "?"}], "prompt": None},
            "header has form 'plain'",
        ),
    ],
)
def test_a_bad_item_is_refused_with_line_and_field(
    kind: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    header, item = GOOD[kind]
    changed = {name: value for name, value in (item | change).items() if value is not None}
    with pytest.raises(DataError, match=message):
        read_task(written(tmp_path / "t.jsonl", header, changed))


def test_files_that_are_no_tasks_are_named(tmp_path: Path) -> None:
    header, item = GOOD["exact"]
    for rows, message in (
        ((), "is empty, wanted a header and items"),
        ((header,), "has a header and no items"),
        ((header, "{"), "line 2: is not JSON"),
        ((header, "[]"), "line 2: wanted a JSON object"),
        ((header, item | {"id": 1}, item | {"id": "1"}), "line 3: id: '1' occurs twice"),
    ):
        with pytest.raises(DataError, match=message):
            read_task(written(tmp_path / "t.jsonl", *rows))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_task(tmp_path / "none.jsonl")


def test_a_file_without_an_end_is_not_read() -> None:
    with pytest.raises(DataError, match="is not a regular file"):
        read_task(Path("/dev/zero"))
