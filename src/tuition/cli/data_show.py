"""`tuition data show`: the first rows exactly as the model will see them, and what is cut or copied."""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from tuition.cli.arguments import Common, parse
from tuition.core.errors import SettingsError
from tuition.core.workspace import open_workspace
from tuition.data.settings import DataSettings, ExampleSettings

if TYPE_CHECKING:
    from tuition.data.overview import Overview, Row

DESCRIPTION = """Show the first rows exactly as the model will see them, with the taught tokens marked.

Examples:
  tuition data show tickets.jsonl --model smollm2
  tuition data show faq.csv --model smollm2 --data.prompt-field question --data.completion-field answer"""

MARKS = (("⟦", "⟧"), ("[[", "]]"), ("{{{", "}}}"), ("<<<<", ">>>>"), ("[[[[[[", "]]]]]]"))
"""Around what is taught, where there is no colour: the first that does not stand in the text itself."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
COLOUR, PLAIN = "\x1b[1;32m", "\x1b[0m"


@dataclass(frozen=True, kw_only=True)
class Show(Common):
    """What `tuition data show` takes."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files or folders; the same as --data.paths."""
    model: str | None = None
    """Whose chat template, tokenizer and context to use: name, name@version, folder or GGUF file; of an
    adapter, those of its base."""
    rows: int = 3
    """How many rows to show."""
    context: int | None = None
    """Most tokens of a row. Default: as many as `tuition train` takes: the model's context, and of an example
    at most 2,048."""
    text_field: str = "text"
    """Where rows hold plain text: the field that holds it."""
    data: ExampleSettings = field(default_factory=ExampleSettings)
    """The data, as for `tuition train`."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """One JSON object instead of text."""

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise SettingsError("rows", got=self.rows, wanted="0 or more")
        if self.context is not None and self.context < 2:
            raise SettingsError("context", got=self.context, wanted="at least 2")
        if self.files and self.data.paths:
            wanted = "all files in one place: after --data.paths or without it"
            raise SettingsError("data.paths", got=[str(path) for path in self.files], wanted=wanted)


def show(argv: list[str]) -> int:
    """Print the overview."""
    arguments = parse(Show, argv, verb="data show", description=DESCRIPTION)
    settings = replace(arguments.data, paths=arguments.files or arguments.data.paths)
    if not settings.paths:
        raise SettingsError("files", got=(), wanted="the data to show: tuition data show FILE --model MODEL")
    if arguments.model is None:
        wanted = "--model NAME: its chat template and tokenizer make the tokens"
        raise SettingsError("model", got=None, wanted=wanted)
    overview = overview_of(arguments, settings)
    if arguments.json:
        print(json.dumps(asdict(overview), ensure_ascii=False))
        return 0
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in lines_of(overview, settings, is_coloured):
        print(line)
    return 0


def overview_of(arguments: Show, settings: ExampleSettings) -> "Overview":
    """The overview of what the files hold."""
    from tuition.books.books import open_books
    from tuition.cli.terminal import BarsOnly, open_progress
    from tuition.data.examples import kind_of_data
    from tuition.data.overview import example_overview, text_overview
    from tuition.model.folder import open_model
    from tuition.registry.registry import Registry, Version
    from tuition.train.recipes.finetune_settings import MOST_LONGEST

    workspace = open_workspace(arguments.workspace).create()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        found = registry.find(str(arguments.model))
        if isinstance(found, Version) and found.kind == "adapter":
            found = registry.base_of(found)
        folder = open_model(found.path if isinstance(found, Version) else found, verify=False)
    progress = BarsOnly(open_progress())
    tokenizer, context = folder.tokenizer(), arguments.context or folder.shape.context_length
    if kind_of_data(settings, arguments.text_field) == "examples":
        context = arguments.context or min(context, MOST_LONGEST)
        return example_overview(settings, tokenizer, context, arguments.rows, progress)
    text = DataSettings(
        paths=settings.paths,
        include=settings.include,
        exclude=settings.exclude,
        field=arguments.text_field,
        dataset_split=settings.dataset_split,
        on_bad=settings.on_bad,
    )
    return text_overview(text, tokenizer, context, arguments.rows, workspace.data, progress)


def lines_of(overview: "Overview", settings: ExampleSettings, is_coloured: bool) -> Iterator[str]:
    """The overview as text."""
    before, after = (COLOUR, PLAIN) if is_coloured else marks_for(overview)
    word = "document" if overview.kind == "text" else "example"
    if overview.rows:
        yield f"taught tokens look like {before}this{after}"
    for number, row in enumerate(overview.rows, 1):
        yield ""
        yield f"{word} {number}: {row.origin}: {row.num_tokens:,} tokens, {row.num_taught:,} taught"
        yield from row_lines(row, before, after)
    if overview.rows:
        yield ""
    yield from summary(overview, settings, word)


def row_lines(row: "Row", before: str, after: str) -> Iterator[str]:
    """One row, with marks around what is taught; control characters are replaced."""
    for number, sequence in enumerate(row.sequences, 1):
        if len(row.sequences) > 1:
            yield f"-- sequence {number} of {len(row.sequences)}"
        texts = (printable(run.text) for run in sequence)
        yield "".join(
            f"{before}{text}{after}" if run.taught else text
            for text, run in zip(texts, sequence, strict=True)
        )
    if row.cut_tokens:
        yield f"-- {row.cut_tokens:,} more tokens do not fit"


def summary(overview: "Overview", settings: ExampleSettings, word: str) -> Iterator[str]:
    """Numbers of the whole data."""
    lengths, share = overview.lengths, overview.taught_tokens / max(1, overview.train_tokens)
    rows = [
        *(("read as", f"{form}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
          for form, names in overview.forms.items()),
        (f"{word}s to teach", f"{overview.num_train:,}"),
        ("held out", overview.split),
        ("tokens to teach", f"{overview.taught_tokens:,} of {overview.train_tokens:,} ({share:.0%})"),
        (f"tokens of a {word}".replace("a e", "an e"),
         f"median {lengths.median:,}, 95th percentile {lengths.p95:,}, longest {lengths.longest:,}"),
    ]  # fmt: skip
    if overview.kind != "text":
        rows.append((f"longer than {overview.context:,}", too_long(overview, settings)))
    if overview.num_duplicates is not None:
        left_out = f", and {overview.num_heldout_copies:,} left out of the held-out part"
        rows.append(
            ("copies", f"{overview.num_duplicates:,}{left_out if overview.num_heldout_copies else ''}")
        )
    if overview.num_trimmed:
        why = "what follows it teaches nothing"
        rows.append(("end cut off", f"{overview.num_trimmed:,} behind the assistant's last turn: {why}"))
    if overview.num_leaked is not None:
        named = f": {'; '.join(overview.leaked)}" if overview.leaked else ""
        rows.append(("also held out", f"{overview.num_leaked:,}{named}"))
    if overview.num_skipped:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(overview.skipped.items()))
        rows.append(("cannot be used", f"{overview.num_skipped:,} rows ({reasons})"))
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:<{width}}  {value}" for name, value in rows)


def too_long(overview: "Overview", settings: ExampleSettings) -> str:
    """What happens to examples that are too long."""
    if not overview.num_too_long:
        return "0"
    if settings.too_long == "refuse":
        return f"{overview.num_too_long:,}: training refuses them; choose --data.too-long cut or leave-out"
    return f"{overview.num_too_long:,}: {overview.num_cut:,} cut, {overview.num_left_out:,} left out"


def marks_for(overview: "Overview") -> tuple[str, str]:
    """A pair of marks that no shown text contains and that the terminal can write."""
    texts = [run.text for row in overview.rows for sequence in row.sequences for run in sequence]
    encoding = sys.stdout.encoding or "utf-8"
    for pair in MARKS:
        can_be_written = "".join(pair).encode(encoding, "ignore").decode(encoding) == "".join(pair)
        if can_be_written and not any(mark in text for mark in pair for text in texts):
            return pair
    return MARKS[-1]


def printable(text: str) -> str:
    """The text with control characters shown as escapes: a file must not steer the terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
