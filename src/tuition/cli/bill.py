"""`tuition bill`: the statement of each model, the receipt of a training run or of a request."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tuition.cli.arguments import Common, choose, parse
from tuition.core.errors import NotFoundError, SettingsError, TuitionError
from tuition.core.workspace import open_workspace

if TYPE_CHECKING:
    from tuition.ledger.sheets import RequestReceipt, TrainingReceipt

ACTIONS = {
    "statement": "fixed and variable cost of each model, and where they cross",
    "run": "the receipt of a training run, or a line for each of them",
    "request": "the receipt of a request, or a line for each of the latest ones",
    "check": "whether the books agree with the meter, and where they do not",
}

LIMIT = 20
"""Requests in a list, where no number was given."""

Format = Literal["table", "json", "csv"]


@dataclass(frozen=True, kw_only=True)
class CheckSheet(Common):
    """`tuition bill check`, and what every sheet takes."""

    format: Format = "table"
    """table for people, json and csv for programs: the same figures, each with how it is known. A list of
    receipts is a JSON array, also of one or none; the one receipt that an id names is an object."""


@dataclass(frozen=True, kw_only=True)
class StatementSheet(CheckSheet):
    """`tuition bill statement`."""

    model: str | None = None
    """Only this model, by name."""


@dataclass(frozen=True, kw_only=True)
class RunSheet(StatementSheet):
    """`tuition bill run`."""

    run: Annotated[str | None, tyro.conf.Positional] = None
    """Id of the run, as `tuition train` printed it; left out: every run."""

    def __post_init__(self) -> None:
        if self.run is not None and self.model is not None:
            raise SettingsError("model", got=self.model, wanted=f"nothing: the run is named ({self.run})")


@dataclass(frozen=True, kw_only=True)
class RequestSheet(StatementSheet):
    """`tuition bill request`."""

    request: Annotated[str | None, tyro.conf.Positional] = None
    """Id of the request (the reply's x-request-id); left out: the latest ones."""
    limit: int | None = None
    """How many of the latest requests to list; left out: 20."""

    def __post_init__(self) -> None:
        if self.limit is not None and not 1 <= self.limit <= 1_000_000:
            raise SettingsError("limit", got=self.limit, wanted="1 to 1,000,000")
        for name in ("model", "limit"):
            if self.request is not None and getattr(self, name) is not None:
                wanted = f"nothing: the request is named ({self.request})"
                raise SettingsError(name, got=getattr(self, name), wanted=wanted)


def run(argv: list[str]) -> int:
    """Print the sheet."""
    action, rest = choose(ACTIONS, argv, verb="bill", default="statement")
    verb = f"bill {action}"
    if action == "run":
        return show_runs(parse(RunSheet, rest, verb=verb, description=ACTIONS[action]))
    if action == "request":
        return show_requests(parse(RequestSheet, rest, verb=verb, description=ACTIONS[action]))
    if action == "check":
        return check(parse(CheckSheet, rest, verb=verb, description=ACTIONS[action]))
    return show_statement(parse(StatementSheet, rest, verb=verb, description=ACTIONS[action]))


def show_statement(arguments: StatementSheet) -> int:
    from tuition.books.books import open_books
    from tuition.ledger.render import render
    from tuition.ledger.statements import statement

    with open_books(open_workspace(arguments.workspace).create()) as books:
        sheet = statement(books, arguments.model)
    if not sheet.models and arguments.format == "table":
        print("Nothing was spent yet; `tuition train` and `tuition serve` write into the books.")
        return 0
    write(render(sheet, arguments.format))
    return 0


def show_runs(arguments: RunSheet) -> int:
    from tuition.books.books import open_books
    from tuition.cli.bill_tables import run_table
    from tuition.ledger.statements import training_receipt, training_receipts

    with open_books(open_workspace(arguments.workspace).create()) as books:
        if arguments.run is not None:
            with found_or_hint("run", arguments.run):
                return show_named((training_receipt(books, arguments.run),), arguments.format)
        sheets = training_receipts(books, arguments.model)
    nothing = nothing_of("run", arguments.model, "`tuition train` makes one")
    return show_list(sheets, arguments.format, with_hint(run_table(sheets), "run") if sheets else nothing)


def show_requests(arguments: RequestSheet) -> int:
    from tuition.books.books import open_books
    from tuition.cli.bill_tables import request_table
    from tuition.ledger.statements import call_receipts, request_receipts

    with open_books(open_workspace(arguments.workspace).create()) as books:
        if arguments.request is not None:
            with found_or_hint("request", arguments.request):
                return show_named(call_receipts(books, arguments.request), arguments.format)
        sheets = request_receipts(books, arguments.model, arguments.limit or LIMIT)
    nothing = nothing_of("request", arguments.model, "`tuition serve` answers some")
    return show_list(
        sheets, arguments.format, with_hint(request_table(sheets), "request") if sheets else nothing
    )


@contextlib.contextmanager
def found_or_hint(kind: str, name: str) -> Iterator[None]:
    """Inside, an id that is not in the books is an error without all those that are."""
    try:
        yield
    except NotFoundError as error:
        raise TuitionError(f"no {kind} {name!r} is in the books; `tuition bill {kind}` lists them") from error


def with_hint(table: str, kind: str) -> str:
    """A list, and how to see more."""
    return f"{table}\n\ntuition bill {kind} <{kind}> shows one in full, and how each figure is known"


def nothing_of(kind: str, model: str | None, way_out: str) -> str:
    """What a table says where no receipt was found."""
    return f"No {kind}{f' of {model}' if model else ''} was billed yet; {way_out}."


def show_named(sheets: "Sequence[TrainingReceipt | RequestReceipt]", format: Format) -> int:
    """What an id names: one receipt, or the list of them where a call asked for several replies."""
    from tuition.ledger.render import render

    if len(sheets) > 1:
        return show_list(sheets, format, "\n".join(map(render, sheets)))
    write(render(sheets[0], format))
    return 0


def show_list(sheets: "Sequence[TrainingReceipt | RequestReceipt]", format: Format, table: str) -> int:
    """The table, one JSON array, or one CSV with a single head."""
    from tuition.ledger.render import lines_of, render, render_lines

    if format == "csv":
        write(render_lines([line for sheet in sheets for line in lines_of(sheet)], "csv"))
        return 0
    write(f"[{','.join(render(sheet, 'json') for sheet in sheets)}]" if format == "json" else table)
    return 0


def check(arguments: CheckSheet) -> int:
    """Print every identity of the books and what does not hold; 1 if something does not."""
    from tuition.books.books import open_books
    from tuition.cli.bill_check import check_lines, check_table, verdict
    from tuition.ledger.reconciliation import reconcile
    from tuition.ledger.render import render_lines

    with open_books(open_workspace(arguments.workspace).create()) as books:
        found = reconcile(books)
    if arguments.format == "json":
        write(json.dumps(dataclasses.asdict(found) | {"holds": found.holds}, indent=2))
    elif arguments.format == "csv":
        write(render_lines(check_lines(found), "csv"))
    else:
        write(f"{check_table(found)}\n\n{verdict(found)}")
    return 0 if found.holds else 1


def write(text: str) -> None:
    """The sheet, ended by one newline."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
