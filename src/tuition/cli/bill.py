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
from tuition.core.units import parse_time_ns
from tuition.core.workspace import open_workspace

if TYPE_CHECKING:
    from tuition.ledger.sheets import Span, TrainingReceipt

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
class Sheet(Common):
    """What every sheet takes."""

    format: Format = "table"
    """table for people, json and csv for programs: the same figures. Requests are one row each, with stable
    names; a list is a JSON array, also of one or none; the one receipt that an id names is an object."""


@dataclass(frozen=True, kw_only=True)
class CheckSheet(Sheet):
    """`tuition bill check`."""

    accept: tuple[str, ...] = ()
    """Record that the loss of these periods is known (17, or several, or all): a process that was killed
    could not write its last second. The check then holds again, until another loss is found."""
    why: str | None = None
    """The reason for accepting a loss, such as "power cut"; it is kept in the books."""

    def __post_init__(self) -> None:
        if self.accept and self.why is None:
            raise SettingsError("why", got=None, wanted="the reason for accepting a loss, like 'power cut'")
        if self.why is not None and not self.accept:
            raise SettingsError("why", got=self.why, wanted="nothing where no loss is accepted")
        self.periods()

    def periods(self) -> tuple[int, ...]:
        """The periods of `accept` by number; none for all. Raises: SettingsError."""
        if self.accept == ("all",):
            return ()
        for each in self.accept:
            if not (each.isascii() and each.isdigit() and len(each) < 19):
                wanted = "numbers of periods as the check prints them, like 17 18, or all"
                raise SettingsError("accept", got=each, wanted=wanted)
        return tuple(map(int, self.accept))


@dataclass(frozen=True, kw_only=True)
class StatementSheet(Sheet):
    """`tuition bill`, `tuition bill statement`."""

    model: str | None = None
    """Only this model, by name; the statement then shows every figure of it."""
    since: str | None = None
    """Only what began at this time or later: 2026-11-01, 2026-11-01T14:30 (UTC), or 7d for that long ago."""
    until: str | None = None
    """Only what began before this time; written as `since`."""

    def __post_init__(self) -> None:
        since, until = self.span().since_unix_ns, self.span().until_unix_ns
        if since is not None and until is not None and since >= until:
            raise SettingsError("until", got=self.until, wanted=f"a time after since ({self.since})")

    def span(self) -> "Span":
        """The times as numbers. Raises: SettingsError."""
        from tuition.ledger.sheets import Span

        times = {name: getattr(self, name) for name in ("since", "until")}
        ns = {name: None if text is None else parse_time_ns(text, name) for name, text in times.items()}
        return Span(ns["since"], ns["until"])


@dataclass(frozen=True, kw_only=True)
class RunSheet(StatementSheet):
    """`tuition bill run`."""

    run: Annotated[str | None, tyro.conf.Positional] = None
    """Id of the run, as `tuition train` printed it. Default: every run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_beside(self, "run", ("model", "since", "until"))


@dataclass(frozen=True, kw_only=True)
class RequestSheet(StatementSheet):
    """`tuition bill request`."""

    request: Annotated[str | None, tyro.conf.Positional] = None
    """Id of the request (the reply's x-request-id). Default: the latest ones."""
    limit: int | None = None
    """How many of the latest requests to list. Default: 20, with since or until all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and not 1 <= self.limit <= 1_000_000_000:
            raise SettingsError("limit", got=self.limit, wanted="1 to 1,000,000,000")
        refuse_beside(self, "request", ("model", "limit", "since", "until"))


def refuse_beside(sheet: StatementSheet, kind: str, names: Sequence[str]) -> None:
    """Raises: SettingsError for a filter where an id already says which receipt is meant."""
    named = getattr(sheet, kind)
    for name in names if named is not None else ():
        if getattr(sheet, name) is not None:
            wanted = f"nothing: the {kind} is named ({named})"
            raise SettingsError(name, got=getattr(sheet, name), wanted=wanted)


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
    from tuition.cli.bill_tables import overview
    from tuition.ledger.render import render
    from tuition.ledger.statements import statement

    with open_books(open_workspace(arguments.workspace).create()) as books:
        sheet = statement(books, arguments.model, arguments.span())
    if arguments.format != "table":
        write(render(sheet, arguments.format))
    elif not sheet.models:
        print("Nothing was spent in this time; training a model or using one writes into the books.")
    elif arguments.model is not None:
        write(f"{overview(sheet)}\n\n{render(sheet)}")
    else:
        hint = "tuition bill --model <model> shows one in full, and how each figure is known"
        write(f"{overview(sheet)}\n\n{hint}")
    return 0


def show_runs(arguments: RunSheet) -> int:
    from tuition.books.books import open_books
    from tuition.cli.bill_tables import run_table
    from tuition.ledger.statements import training_receipt, training_receipts

    with open_books(open_workspace(arguments.workspace).create()) as books:
        if arguments.run is not None:
            with found_or_hint("run", arguments.run):
                return show_run_sheets(
                    (training_receipt(books, arguments.run),), arguments.format, named=True
                )
        sheets = training_receipts(books, arguments.model, arguments.span())
    if arguments.format != "table":
        return show_run_sheets(sheets, arguments.format)
    nothing = nothing_of("run", arguments.model, "`tuition train` makes one")
    write(with_hint(run_table(sheets), "run") if sheets else nothing)
    return 0


def show_run_sheets(sheets: "Sequence[TrainingReceipt]", format: Format, *, named: bool = False) -> int:
    """One JSON array, one CSV with a single head; or the one receipt that is named."""
    from tuition.ledger.render import lines_of, render, render_lines

    if named:
        write(render(sheets[0], format))
    elif format == "csv":
        write(render_lines([line for sheet in sheets for line in lines_of(sheet)], "csv"))
    else:
        write(f"[{','.join(render(sheet, 'json') for sheet in sheets)}]")
    return 0


def show_requests(arguments: RequestSheet) -> int:
    from tuition.books.books import open_books
    from tuition.cli.bill_tables import request_table
    from tuition.ledger.export import RequestWriter
    from tuition.ledger.statements import each_request, in_span, of_model, request_receipts

    if arguments.request is not None:
        return show_call(arguments, arguments.request)
    conditions = (*of_model(arguments.model), *in_span(arguments.span()))
    limit = arguments.limit
    if limit is None and arguments.since is None and arguments.until is None:
        limit = LIMIT
    with open_books(open_workspace(arguments.workspace).create()) as books:
        if arguments.format != "table":
            with RequestWriter(sys.stdout, arguments.format) as rows:
                each_request(books, rows.write, *conditions, limit=limit)
            return 0
        sheets = request_receipts(books, *conditions, limit=limit)
    nothing = nothing_of("request", arguments.model, "`tuition serve` answers some")
    write(with_hint(request_table(sheets), "request") if sheets else nothing)
    return 0


def show_call(arguments: RequestSheet, name: str) -> int:
    """What an id names: one receipt, or those of a call that asked for several replies."""
    from tuition.books.books import open_books
    from tuition.ledger.export import RequestWriter, request_object
    from tuition.ledger.render import render
    from tuition.ledger.statements import call_receipts

    with open_books(open_workspace(arguments.workspace).create()) as books, found_or_hint("request", name):
        receipts = call_receipts(books, name)
    if arguments.format == "table":
        write("\n".join(map(render, receipts)))
    elif arguments.format == "json" and len(receipts) == 1:
        write(json.dumps(request_object(receipts[0]), indent=2, ensure_ascii=False))
    else:
        with RequestWriter(sys.stdout, arguments.format) as rows:
            for receipt in receipts:
                rows.write_receipt(receipt)
    return 0


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


def check(arguments: CheckSheet) -> int:
    """Print every identity of the books and what does not hold; 1 if something does not."""
    from tuition.books.books import open_books
    from tuition.cli.bill_check import NOTHING_YET, check_lines, check_table, verdict
    from tuition.ledger.losses import accept_losses
    from tuition.ledger.reconciliation import reconcile
    from tuition.ledger.render import render_lines

    with open_books(open_workspace(arguments.workspace).create()) as books:
        if arguments.accept:
            accept_losses(books, arguments.periods(), arguments.why or "")
        found = reconcile(books)
    if arguments.format == "json":
        write(json.dumps(dataclasses.asdict(found) | {"holds": found.holds}, indent=2))
    elif arguments.format == "csv":
        write(render_lines(check_lines(found), "csv"))
    elif found.is_empty:
        write(NOTHING_YET)
    else:
        write(f"{check_table(found)}\n\n{verdict(found)}")
    return 0 if found.holds else 1


def write(text: str) -> None:
    """The sheet, ended by one newline."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
