"""The last step of the demo: receipts, the statement of every model, and how to go on."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tuition.books.books import Books
from tuition.cli.bill_tables import request_table
from tuition.cli.demo_use import PRETRAINED
from tuition.cli.scribe import Scribe
from tuition.core.errors import TuitionError
from tuition.core.workspace import Workspace
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.render import render
from tuition.ledger.statements import call_receipts, statement
from tuition.registry.registry import Version


def bill(request_ids: Sequence[str], books: Books, scribe: Scribe) -> None:
    """A receipt for every request, the statement of every model, and whether the books balance.

    Raises: TuitionError if they do not.
    """
    scribe.heading("4  Bill: what each of it cost")
    receipts = [receipt for call in request_ids for receipt in call_receipts(books, call)]
    scribe.say(render(receipts[0]).rstrip())
    scribe.say("\nThe receipts of all requests (tuition bill request <id> shows one in full):")
    scribe.say(request_table(receipts))
    for model in statement(books).models:
        scribe.say("\n" + render(model).rstrip())
    if not reconcile(books).holds:
        raise TuitionError("the books do not agree with the meter; run: tuition bill check")
    scribe.say("\nThe books balance to the last unit: meter = attributed + idle + overhead.")


def ending(workspace: Workspace, version: Version, scribe: Scribe) -> None:
    """How to go on, and where everything is."""
    tuition = sys.argv[0] if Path(sys.argv[0]).name == "tuition" else "tuition"
    scribe.say(f"\nEverything is in {workspace.root}. To go on:")
    scribe.say(f"  export TUITION_HOME={workspace.root}")
    scribe.say(f"  {tuition} serve {version.name} {PRETRAINED}    # and open the chat page it names")
    scribe.say(f"  {tuition} chat {PRETRAINED}    # or talk in the terminal")
    scribe.say(f"  {tuition} bill    # what it all has cost so far")
