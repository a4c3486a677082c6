"""`tuition bill`: the statement of each model, the receipt of a training run or of a request."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tuition.cli.arguments import Common, choose, parse
from tuition.core.errors import SettingsError
from tuition.core.workspace import open_workspace

if TYPE_CHECKING:
    from tuition.ledger.sheets import RequestReceipt, TrainingReceipt

ACTIONS = {
    "statement": "fixed and variable cost of each model, and where they cross",
    "run": "the receipt of a training run, or of all of them",
    "request": "the receipt of a request, or of the latest ones",
    "check": "whether meter = attributed + idle + overhead, and every posting balances",
}


@dataclass(frozen=True, kw_only=True)
class _Sheet(Common):
    """What every sheet takes."""

    format: Literal["table", "json", "csv"] = "table"
    """table for people, json and csv for programs: the same figures, each with how it is known."""
    model: str | None = None
    """Only this model, by name."""


@dataclass(frozen=True, kw_only=True)
class StatementSheet(_Sheet):
    """`tuition bill statement`."""


@dataclass(frozen=True, kw_only=True)
class RunSheet(_Sheet):
    """`tuition bill run`."""

    run: Annotated[str | None, tyro.conf.Positional] = None
    """Id of the run, as `tuition train` printed it; left out: every run."""


@dataclass(frozen=True, kw_only=True)
class RequestSheet(_Sheet):
    """`tuition bill request`."""

    request: Annotated[str | None, tyro.conf.Positional] = None
    """Id of the request (the reply's x-request-id); left out: the latest ones."""
    limit: int = 20
    """How many of the latest requests to list."""

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= 1_000_000:
            raise SettingsError("limit", got=self.limit, wanted="1 to 1,000,000")


def run(argv: list[str]) -> int:
    """Print the sheet."""
    action, rest = choose(ACTIONS, argv, verb="bill", default="statement")
    verb = f"bill {action}"
    if action == "run":
        return show_runs(parse(RunSheet, rest, verb=verb, description=ACTIONS[action]))
    if action == "request":
        return show_requests(parse(RequestSheet, rest, verb=verb, description=ACTIONS[action]))
    if action == "check":
        return check(parse(StatementSheet, rest, verb=verb, description=ACTIONS[action]))
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
    from tuition.ledger.statements import training_receipt, training_receipts

    with open_books(open_workspace(arguments.workspace).create()) as books:
        if arguments.run is not None:
            sheets = (training_receipt(books, arguments.run),)
        else:
            sheets = training_receipts(books, arguments.model)
    return show_all(sheets, arguments.format, "No run was billed yet; `tuition train` makes one.")


def show_requests(arguments: RequestSheet) -> int:
    from tuition.books.books import open_books
    from tuition.ledger.statements import call_receipts, request_receipts

    with open_books(open_workspace(arguments.workspace).create()) as books:
        if arguments.request is not None:
            sheets = call_receipts(books, arguments.request)
        else:
            sheets = request_receipts(books, arguments.model, arguments.limit)
    return show_all(sheets, arguments.format, "No request was billed yet; `tuition serve` answers some.")


def show_all(
    sheets: "Sequence[TrainingReceipt | RequestReceipt]",
    format: Literal["table", "json", "csv"],
    nothing: str,
) -> int:
    """Several receipts: one below the other, one JSON array, or one CSV with a single head."""
    from tuition.ledger.render import render

    texts = [render(sheet, format) for sheet in sheets]
    if format == "json":
        write(texts[0] if len(texts) == 1 else f"[{','.join(texts)}]")
    elif format == "csv":
        write("".join(text if index == 0 else text.partition("\n")[2] for index, text in enumerate(texts)))
    else:
        write("\n\n".join(texts) or nothing)
    return 0


def check(arguments: StatementSheet) -> int:
    """Print every identity of the books; 1 if one does not hold."""
    from tuition.books.books import open_books
    from tuition.core.units import format_duration, format_energy, format_usd
    from tuition.ledger.reconciliation import reconcile

    with open_books(open_workspace(arguments.workspace).create()) as books:
        found = reconcile(books)
    if arguments.format != "table":
        write(json.dumps(dataclasses.asdict(found) | {"holds": found.holds}, indent=2))
        return 0 if found.holds else 1
    for field in dataclasses.fields(found):
        amount = getattr(found, field.name)
        if not isinstance(amount, dict):
            energy = format_energy(amount.energy_uj)
            seconds = format_duration(amount.wall_ns / 1e9)
            print(f"{field.name:<14} {seconds:>14} {energy:>14} {format_usd(amount.cost_nusd):>16}")
    print("every identity holds to the last unit" if found.holds else "THE BOOKS DO NOT AGREE WITH THE METER")
    return 0 if found.holds else 1


def write(text: str) -> None:
    """The sheet, ended by one newline."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
