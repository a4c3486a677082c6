"""Task files: the prompts of a task, and how the answers are checked.

In: .jsonl; the first line is the header, each further line one item.  Out: a `Task`.

    {"task": "orders", "kind": "json", "form": "chat", "system": "Return ...", "max_tokens": 80}
    {"id": "1", "prompt": "Please send 12 desk lamps ...", "target": {"item": "desk lamps", "quantity": 12}}

| kind | an item has | right is |
|---|---|---|
| choice | choices, right (its index from 0) | the right choice has the highest log-likelihood |
| exact | target: a text, or a list of texts | the reply without spaces around it is one of them |
| number | target: a number | the last number in the reply equals it |
| regex | target: a pattern | it is found in the reply |
| json | target: an object | the reply is an object with these fields and no other |
| python | whatever the function reads | the function of the header returns True, or 1 |
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from tuition.core.errors import DataError, SettingsError
from tuition.core.settings import from_table

TaskKind = Literal["choice", "exact", "number", "regex", "json", "python"]
Form = Literal["chat", "plain"]
Normalization = Literal["none", "bytes", "characters"]
DEFAULT_MAX_TOKENS = 256
LONGEST_NAME = 64
"""Of a task: it stands in tables and in the registry."""
ITEM_FIELDS = ("id", "prompt", "messages", "target", "choices", "right", "note")
PATTERN = Path(__file__).with_name("pattern.py"), "is_found"
"""Judges replies of kind regex."""
WAY_OUT = "see tuition eval --help for the format"


@dataclass(frozen=True)
class Header:
    """The first line of a task file."""

    task: str
    kind: TaskKind
    form: Form = "plain"
    """chat: the prompt is a message of the user, rendered with the model's chat template. plain: a text."""
    system: str | None = None
    """With chat: the system message of every item."""
    chat_template_kwargs: dict | None = None
    """With chat: variables of the model's template, as {"enable_thinking": false}."""
    max_tokens: int | None = None
    """Most tokens of a reply. Default: 256, or fewer if the model's context has less room."""
    stop: tuple[str, ...] = ()
    """Texts that end a reply."""
    normalize: Normalization = "none"
    """With choice: divide each log-likelihood by the length of the choice."""
    delimiter: str = " "
    """With choice and plain: between prompt and choice; not counted in the length of the choice."""
    function: str | None = None
    """With python: FILE.py:FUNCTION, beside the task file; it gets the item and the reply."""


@dataclass(frozen=True)
class Item:
    """One question."""

    id: str
    prompt: str | tuple[Mapping[str, Any], ...]
    """A text, or messages."""
    target: Any = None
    choices: tuple[str, ...] = ()
    right: int = 0
    """Index of the right choice."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """The line as it was written, for functions."""


@dataclass(frozen=True)
class Task:
    """A header and its items."""

    header: Header
    items: tuple[Item, ...]
    digest: str
    """SHA-256 of what decides the result: header, items and the user's function."""
    path: Path

    @property
    def name(self) -> str:
        return self.header.task

    @property
    def function(self) -> tuple[Path, str] | None:
        """File and name of the function that judges, with limits: the user's, or ours for patterns."""
        if self.header.kind == "regex":
            return PATTERN
        if self.header.function is None:
            return None
        file, _, name = self.header.function.rpartition(":")
        return self.path.parent / file, name


def task_text(header: Header, items: Sequence[Mapping[str, Any]]) -> str:
    """The content of a task file."""
    given = {each.name: getattr(header, each.name) for each in fields(Header)}
    defaults = {each.name: each.default for each in fields(Header)}
    given = {name: value for name, value in given.items() if value != defaults[name]}
    lines = [json.dumps(row, ensure_ascii=False) for row in (given, *items)]
    return "\n".join(lines) + "\n"


def read_task(path: Path, option: str = "--tasks") -> Task:
    """Read and check a task file, which `option` names. Raises: DataError with file, line and field."""
    rows = _rows(path, option)
    if not rows:
        raise DataError(path, "is empty, wanted a header and items", way_out=WAY_OUT)
    (line, first), *rest = rows
    header = _header(path, line, first)
    if not rest:
        raise DataError(path, "has a header and no items", way_out="add at least one item")
    items: dict[str, Item] = {}
    for line, row in rest:
        item = _item(path, line, row, header)
        if item.id in items:
            raise DataError(path, f"id: {item.id!r} occurs twice", line=line, way_out="make ids unique")
        items[item.id] = item
    told = json.dumps([row for _, row in rows], sort_keys=True)
    digest = hashlib.sha256(told.encode())
    task = Task(header, tuple(items.values()), digest.hexdigest(), path)
    if task.function is not None and header.kind == "python":
        digest.update(_source(path, task.function[0]))
        task = Task(header, task.items, digest.hexdigest(), path)
    return task


def _source(path: Path, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        problem = f"function: {file} cannot be read: {error.strerror}"
        raise DataError(path, problem, line=1, way_out="name a file beside the task file") from error


def _rows(path: Path, option: str) -> list[tuple[int, dict[str, Any]]]:
    if path.exists() and not path.is_file():  # a device or a pipe may have no end
        raise DataError(path, "is not a regular file", way_out=f"name a file with {option}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise DataError(path, problem, way_out=f"name a file with {option}") from error
    rows = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(path, f"is not JSON: {error}", line=number, way_out=WAY_OUT) from error
        if not isinstance(row, dict):
            raise DataError(path, "wanted a JSON object", line=number, way_out=WAY_OUT)
        if not is_text(row):
            problem = "holds half of a surrogate pair, which is not text"
            raise DataError(path, problem, line=number, way_out="mend the line")
        rows.append((number, row))
    return rows


def is_text(row: object) -> bool:
    """Whether all texts in a JSON value can be written as UTF-8."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _header(path: Path, line: int, row: dict[str, Any]) -> Header:
    try:
        header = from_table(Header, row)
        _check_header(header, set(row))
    except SettingsError as error:
        raise DataError(path, f"header: {error}", line=line, way_out=WAY_OUT) from error
    return header


def _check_header(header: Header, given: set[str]) -> None:
    """Fields that do not fit together. Raises: SettingsError."""
    name = header.task
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        wanted = f"a name of 1 to {LONGEST_NAME} printable characters"
        raise SettingsError("task", got=name[:LONGEST_NAME], wanted=wanted)
    if header.max_tokens is not None and header.max_tokens < 1:
        raise SettingsError("max_tokens", got=header.max_tokens, wanted="at least 1")
    if not all(header.stop):
        raise SettingsError("stop", got=header.stop, wanted="texts that are not empty")
    generated = tuple(kind for kind in get_args(TaskKind) if kind != "choice")
    fitting = {
        "normalize": ("choice",),
        "delimiter": ("choice",),
        "function": ("python",),
        "max_tokens": generated,
        "stop": generated,
    }
    for name, kinds in fitting.items():
        if name in given and header.kind not in kinds:
            wanted = f"it only with kind {' or '.join(kinds)}, which is {header.kind} here"
            raise SettingsError(name, got=getattr(header, name), wanted=wanted)
    if header.kind == "python" and not re.fullmatch(r"[^:]+\.py:[A-Za-z_]\w*", header.function or ""):
        raise SettingsError("function", got=header.function, wanted="FILE.py:FUNCTION with kind python")
    for name in ("system", "chat_template_kwargs"):
        if name in given and header.form != "chat":
            raise SettingsError(name, got=getattr(header, name), wanted="it only with form chat")


def _item(path: Path, line: int, row: dict[str, Any], header: Header) -> Item:
    def refuse(problem: str) -> DataError:
        return DataError(path, problem, line=line, way_out=WAY_OUT)

    if header.kind != "python" and (unknown := sorted(set(row) - set(ITEM_FIELDS))):
        raise refuse(f"{unknown[0]}: not a field of an item, wanted some of {', '.join(ITEM_FIELDS)}")
    if ("prompt" in row) == ("messages" in row):
        raise refuse("prompt: wanted a prompt or messages")
    prompt: str | tuple[Mapping[str, Any], ...]
    if "messages" in row:
        if header.form != "chat":
            raise refuse("messages: wanted a prompt, since the header has form 'plain'")
        prompt = _messages(row["messages"], refuse)
    elif isinstance(row["prompt"], str) and row["prompt"].strip():
        prompt = row["prompt"]
    else:
        raise refuse(f"prompt: got {row['prompt']!r}, wanted a text")
    _check_answer(row, header.kind, refuse)
    return Item(
        id=str(row.get("id", line)),
        prompt=prompt,
        target=row.get("target"),
        choices=tuple(row.get("choices", ())),
        right=row.get("right", 0),
        given=row,
    )


def _messages(value: Any, refuse: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise refuse(f"messages: got {value!r}, wanted a list of messages")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise refuse(f"messages: got {message!r}, wanted objects with role and content")
    if value[-1]["role"] == "assistant":
        raise refuse("messages: the last one is of the assistant, wanted the question last")
    return tuple(value)


def _check_answer(row: dict[str, Any], kind: TaskKind, refuse: Any) -> None:
    """The fields that say what is right, by kind."""
    if kind == "python":
        return
    needed = ("choices", "right") if kind == "choice" else ("target",)
    for name in ("choices", "right", "target"):
        if (name in row) != (name in needed):
            wanted = "it in every item" if name in needed else "it left out"
            raise refuse(f"{name}: wanted {wanted} of kind {kind!r}")
    if kind == "choice":
        choices, right = row["choices"], row["right"]
        texts = isinstance(choices, list) and all(isinstance(each, str) and each for each in choices)
        if not texts or len(choices) < 2:
            raise refuse(f"choices: got {choices!r}, wanted at least two texts")
        if type(right) is not int or not 0 <= right < len(choices):
            raise refuse(f"right: got {right!r}, wanted the index of a choice, 0 to {len(choices) - 1}")
        return
    target = row["target"]
    texts = target if isinstance(target, list) else [target]
    is_number = type(target) is int or (isinstance(target, float) and math.isfinite(target))
    fits, wanted = {
        "exact": (bool(texts) and all(isinstance(each, str) and each.strip() for each in texts), "a text"),
        "number": (is_number, "a finite number"),
        "json": (isinstance(target, dict) and bool(target), "an object with at least one field"),
        "regex": (isinstance(target, str) and bool(target), "a pattern"),
    }[kind]
    if not fits:
        raise refuse(f"target: got {target!r}, wanted {wanted}")
    if kind == "regex":
        try:
            re.compile(target)
        except (re.error, RecursionError, OverflowError) as error:
            raise refuse(f"target: {target[:80]!r} is not a pattern: {error}") from error
