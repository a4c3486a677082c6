"""Read examples from files: conversations, or prompts with their completions.

In: `ExampleSettings`.  Out: `Example`s. The form of each file is detected from all of its rows and reported.
A row that does not fit is named with file, line and field, or skipped and counted.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tuition.core.errors import DataError, shown_path
from tuition.core.progress import Progress, SilentProgress
from tuition.core.words import value_in_words
from tuition.data.csv_rows import unusual_separator
from tuition.data.documents import Counts
from tuition.data.example_forms import FORMS, Form, named_form
from tuition.data.fingerprints import file_state, require_unchanged
from tuition.data.readers import BadInput, Row
from tuition.data.row_files import source_rows
from tuition.data.settings import ExampleSettings
from tuition.data.sources import KINDS, ROW_KINDS, Source, describe_unexpected, find_sources

Style = Literal["chat", "plain"]
"""Prompts become turns of a conversation, or stay plain text."""

_SKIP = "--data.on-bad skip leaves such rows out"
_SNIFFED_ROWS = 1_000
_ALL_KINDS = frozenset(KINDS.values())


@dataclass(frozen=True)
class Example:
    """One conversation, or one pair of plain texts."""

    messages: tuple[Mapping[str, Any], ...]
    """In OpenAI's form; each content is one text. A message of the assistant with weight 0 is not taught.
    Empty for a pair of plain texts."""
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    """Only for a pair of plain texts."""
    completion: str | None = None
    path: Path = Path()
    line: int = 0
    """Line in its file, from 1; in a table, the row."""
    identity: int = 0
    """64-bit hash of the content. Copies that differ only in spacing have the same hash."""
    group: str | None = None
    """All examples of a group go to the same part of the split."""
    num_bytes: int = 0
    """UTF-8 bytes of the content."""

    @property
    def origin(self) -> str:
        """File and line."""
        return f"{shown_path(self.path)}, line {self.line:,}"


@dataclass
class ReadingLog:
    """What was read, and what was left out."""

    counts: Counts = field(default_factory=Counts)
    """Rows that do not fit."""
    forms: dict[str, list[str]] = field(default_factory=dict)
    """Files by the form that they have."""
    num_trimmed: int = 0
    """Conversations that continued after the last turn of the assistant; the rest is not taught and is
    cut."""

    def leave_out(self, bad: BadInput, path: Path, line: int | None, settings: ExampleSettings) -> None:
        """Count a row that cannot be used. Raises: DataError unless such rows are skipped."""
        if settings.on_bad == "fail":
            raise DataError(path, bad.problem, line=line, way_out=f"{bad.way_out}; {_SKIP}")
        self.counts.leave_out(bad.reason, path, bad.problem, line)

    def describe(self) -> list[str]:
        """The forms that were found, one line each."""
        lines = []
        for form, names in self.forms.items():
            files = names[0] if len(names) == 1 else f"{len(names):,} files ({names[0]}, ...)"
            lines.append(f"{files}: read as {form}")
        return lines


def read_examples(
    settings: ExampleSettings,
    paths: tuple[Path, ...] | None = None,
    *,
    style: Style = "chat",
    log: ReadingLog | None = None,
    progress: Progress | None = None,
) -> Iterator[Example]:
    """All examples, in the same order every time, of `paths` or else of the settings' own.

    Raises: DataError, SettingsError.
    """
    log, reporter = log or ReadingLog(), progress or SilentProgress()
    files = settings if paths is None else replace(settings, paths=paths)
    sources = find_sources(files, ROW_KINDS)
    states = [file_state(source) for source in sources]
    forms = [form_of(source, settings) for source in sources]
    found = ReadingLog()
    for source, form in zip(sources, forms, strict=True):
        sign = unusual_separator(source)
        separated = "" if sign is None else f", cells separated by {sign}"
        for each in (log, found):
            each.forms.setdefault(f"{form.name} ({form.fields}){separated}", []).append(source.name)
    for line in [*describe_unexpected(files, ROW_KINDS), *found.describe()]:
        reporter.say(line)
    with reporter.task("read examples", sum(source.num_bytes for source in sources), "B") as task:
        for source, form in zip(sources, forms, strict=True):
            told = 0
            for example, position in _Reader(source, form, settings, style, log).examples():
                task.advance(position - told)
                told = position
                yield example
    require_unchanged(sources, states)


def kind_of_data(settings: ExampleSettings, text_field: str = "text") -> Literal["examples", "text"]:
    """What the files hold, by their first rows: examples if any of them has rows of a known form.

    Raises: DataError where rows have neither a form nor `text_field`; SettingsError.
    """
    if named_form(settings) is not None:
        return "examples"
    sources = [source for source in find_sources(settings, _ALL_KINDS) if source.kind != "text"]
    if any(find_form(source, _SNIFFED_ROWS) is not None for source in sources):
        return "examples"
    for source in sources:
        if text_field not in _fields_of(source):
            form_of(source, settings)
    return "text"


def form_of(source: Source, settings: ExampleSettings) -> Form:
    """The form of a file. Raises: DataError where none fits, or several do."""
    if source.kind == "text":
        known = ", ".join(name for name, kind in KINDS.items() if kind in ROW_KINDS)
        way_out = f"examples are in files like {known}; plain text is taught by another recipe"
        raise DataError(source.path, "is plain text and holds no examples", way_out=way_out)
    named = named_form(settings)
    if named is not None:
        return named
    form = find_form(source)
    if form is None:
        fields = _fields_of(source)
        names = [name for name in fields if name != "text"]
        example = (
            f"--data.prompt-field {names[0]} --data.completion-field {names[1]}"
            if len(names) > 1
            else "--data.prompt-field and --data.completion-field"
        )
        forms = "; ".join(form.fields for form in FORMS.values())
        problem = f"no row has the fields of a known form ({forms}); it has {', '.join(fields) or 'none'}"
        way_out = f"name two fields, like {example}, or the one with the turns as --data.messages-field"
        raise DataError(source.path, problem, way_out=way_out)
    return form


def find_form(source: Source, most_rows: int | None = None) -> Form | None:
    """The one form that rows of a file have; None: no row has any. Raises: DataError if there are several."""
    fitting = dict.fromkeys(FORMS, 0)
    for row in _good_rows(source, most_rows):
        for name, form in FORMS.items():
            fitting[name] += form.fits(row)
    found = [name for name, number in fitting.items() if number]
    if len(found) > 1:
        counted = ", ".join(f"{name} in {fitting[name]:,} rows" for name in found)
        options = " or ".join(f"--data.form {name}" for name in found)
        raise DataError(
            source.path, f"has the fields of several forms ({counted})", way_out=f"choose {options}"
        )
    return FORMS[found[0]] if found else None


def _good_rows(source: Source, most_rows: int | None) -> Iterator[Row]:
    """Rows that can be used; faults are named when the examples are read."""
    try:
        for _, row, _ in islice(source_rows(source), most_rows):
            if not isinstance(row, BadInput):
                yield row
    except BadInput:
        return


def _fields_of(source: Source) -> list[str]:
    """Fields of the first rows. Raises: DataError where there is none that can be used."""
    fields: dict[str, None] = {}
    fault: BadInput | None = None
    try:
        for _, row, _ in islice(source_rows(source), _SNIFFED_ROWS):
            if isinstance(row, BadInput):
                fault = fault or row
            else:
                fields |= dict.fromkeys(name for name in row if row[name] is not None)
    except BadInput as bad:
        fault = fault or bad
    if not fields and fault is not None:
        raise DataError(source.path, fault.problem, line=fault.line, way_out=fault.way_out)
    return list(fields)[:12]


@dataclass(frozen=True)
class _Reader:
    """Reads the rows of one file."""

    source: Source
    form: Form
    settings: ExampleSettings
    style: Style
    log: ReadingLog

    def examples(self) -> Iterator[tuple[Example, int]]:
        """Examples, and bytes of the file that were read."""
        try:
            for number, row, position in source_rows(self.source):
                try:
                    if isinstance(row, BadInput):
                        raise row
                    yield self._example(row, number), position
                except BadInput as bad:
                    self.log.leave_out(bad, self.source.path, bad.line or number, self.settings)
        except BadInput as bad:
            self.log.leave_out(bad, self.source.path, bad.line, self.settings)

    def _example(self, row: Row, number: int) -> Example:
        """Raises: BadInput; DataError for conversations where plain text is wanted."""
        if not self.form.fits(row):
            has = ", ".join([name for name in row if row[name] is not None][:8]) or "nothing"
            problem = f"lacks a field of the form {self.form.name} ({self.form.fields}); it has {has}"
            raise BadInput("missing field", problem)
        content = self.form.read(row)
        messages = content.messages
        if not messages and self.style == "chat":
            messages = (
                {"role": "user", "content": content.prompt},
                {"role": "assistant", "content": content.completion},
            )
        if messages and self.style == "plain":
            way_out = "start from a model with a chat template, or give prompts with completions as texts"
            problem = "holds conversations, which cannot be taught as plain text"
            raise DataError(self.source.path, problem, line=number, way_out=way_out)
        plain = "" if messages else f"{content.prompt}{content.joint}"
        made = Example(
            self._taught_turns(messages) if messages else (),
            content.tools,
            None if messages else plain,
            None if messages else content.completion,
            path=self.source.path,
            line=number,
            group=self._group(row),
        )
        identity, num_bytes = _digest(made)
        self.log.counts.num_documents += 1
        self.log.counts.num_bytes += num_bytes
        return replace(made, identity=identity, num_bytes=num_bytes)

    def _taught_turns(self, messages: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        """The turns up to the last one of the assistant. Raises: BadInput where nothing is taught."""
        last = max((at for at, turn in enumerate(messages) if _is_taught(turn)), default=None)
        if last is None:
            raise BadInput("nothing to teach", "has no turn of the assistant that is taught")
        for at, turn in enumerate(messages[: last + 1]):
            said = turn["content"] or turn.get("tool_calls") or turn.get("reasoning_content")
            if _is_taught(turn) and not (said.strip() if isinstance(said, str) else said):
                raise BadInput("empty", f"turn {at + 1} is an empty reply of the assistant")
        self.log.num_trimmed += last + 1 < len(messages)
        return tuple(messages[: last + 1])

    def _group(self, row: Row) -> str | None:
        name = self.settings.group_field
        if name is None:
            return None
        value = row.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int):
            what = "missing" if value is None else f"{value_in_words(value)}, wanted a text or a whole number"
            way_out = "give every row a group, or leave out --data.group-field"
            raise BadInput("missing group", f"the field {name!r} is {what}", way_out=way_out)
        return str(value)


def _is_taught(turn: Mapping[str, Any]) -> bool:
    """Raises: BadInput for a weight that is neither 0 nor 1."""
    if turn["role"] != "assistant":
        return False
    weight = turn.get("weight", 1)
    if weight not in (0, 1):
        raise BadInput("bad weight", f"the weight {weight!r} of a turn is neither 0 nor 1")
    return weight == 1


def _digest(example: Example) -> tuple[int, int]:
    """Hash and size in bytes of the content. Raises: BadInput for a value that JSON cannot hold."""
    kept = ("role", "content", "tool_calls", "reasoning_content", "name")
    turns = [{name: turn[name] for name in kept if turn.get(name)} for turn in example.messages]
    content = [turns, example.tools, example.prompt, example.completion]
    try:
        num_bytes = len(json.dumps(content, ensure_ascii=False, allow_nan=False).encode())
        normal = json.dumps(_normal(content), ensure_ascii=False, sort_keys=True)
    except (UnicodeEncodeError, ValueError, TypeError) as error:
        half = isinstance(error, UnicodeEncodeError)
        problem = "holds half of a surrogate pair" if half else f"holds what JSON cannot say ({error})"
        raise BadInput("bad UTF-8" if half else "bad field", problem) from None
    return int.from_bytes(hashlib.blake2b(normal.encode(), digest_size=8).digest(), "big"), num_bytes


def _normal(value: Any) -> Any:
    """The value with single spaces and composed characters (NFC)."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", " ".join(value.split()))
    if isinstance(value, Mapping):
        return {name: _normal(item) for name, item in value.items()}
    return [_normal(item) for item in value] if isinstance(value, list | tuple) else value
