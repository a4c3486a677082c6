"""`tuition demo`: teach a model, use it, use a pretrained one and teach it examples, read the bill.

Every step does what the other verbs do, through the same functions and a real server process. A second demo
uses the model that the first one taught, and says so. The output of a demo that taught its model is kept in
the workspace as `demo.txt`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tuition.cli.arguments import Common, parse
from tuition.cli.machine import detect_for
from tuition.core.errors import TuitionError
from tuition.core.units import parse_duration_s
from tuition.core.workspace import Workspace, open_workspace
from tuition.spec.settings import MachineSettings

if TYPE_CHECKING:
    from tuition.books.books import Books
    from tuition.cli.scribe import Scribe
    from tuition.train.run import Host

DESCRIPTION = """Teach a small model from scratch, use it, use a pretrained one, teach that one examples,
and read the bill.

Examples:
  tuition demo                     about 8 minutes on 2 cores
  tuition demo --budget 30s        a model that was taught too briefly to write well"""
INTERRUPTED = 130
DEFAULT_BUDGET = "4min"
"""A model that was taught this long or longer must write well for the demo to succeed."""


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """What `tuition demo` takes."""

    budget: str = DEFAULT_BUDGET
    """Wall time of the training loop, with its unit; the examples are taught for a third of it, at most 75 s.
    """
    machine: MachineSettings = field(default_factory=MachineSettings)
    """Values that you know for this machine and its price."""

    def __post_init__(self) -> None:
        parse_duration_s(self.budget, "budget")  # before anything is printed or kept

    @property
    def must_write_well(self) -> bool:
        """Whether poor samples end the demo."""
        return parse_duration_s(self.budget) >= parse_duration_s(DEFAULT_BUDGET)

    @property
    def own_budget(self) -> str:
        """Wall time in which the pretrained model is taught."""
        return f"{min(75.0, parse_duration_s(self.budget) / 3):.3f}s"


def run(argv: list[str]) -> int:
    """0 only if every step worked; 130 after Ctrl-C, with the model so far saved and billed."""
    arguments = parse(Demo, argv, verb="demo", description=DESCRIPTION)
    from tuition.books.books import open_books
    from tuition.cli.demo_teach import teach
    from tuition.cli.demo_use import use, use_pretrained
    from tuition.cli.scribe import Scribe
    from tuition.cli.terminal import open_progress
    from tuition.core.progress import SilentProgress
    from tuition.train.run import Host

    workspace = open_workspace(arguments.workspace).create()
    scribe = Scribe(open_progress(sys.stdout))
    machine = detect_for("auto", arguments.machine, workspace)
    rate = f"${machine.usd_per_hour:.4f} ({machine.origins['usd_per_hour'].provenance})"
    scribe.say("tuition demo: teach a model, use it, read its bill, on this machine")
    scribe.say(f"{machine.name}; price of one hour: {rate}")
    with open_books(workspace) as books:
        taught = teach(arguments.budget, workspace, books, machine, scribe)
        if taught.model is None:
            return INTERRUPTED
        try:
            use(taught.model, workspace, books, arguments.machine, scribe, strict=arguments.must_write_well)
            missing = use_pretrained(workspace, books, arguments.machine, scribe)
            if not missing and not own_data(
                Host(workspace, books, machine, SilentProgress()), scribe, arguments.own_budget
            ):
                return INTERRUPTED
            bill(books, scribe)
            ending(workspace, taught.model.name, scribe)
        finally:
            if not taught.is_reused:
                scribe.save(workspace.root / "demo.txt")
    if missing:
        print(f"tuition: the demo is not complete: {missing}", file=sys.stderr)
    return 1 if missing else 0


def own_data(host: "Host", scribe: "Scribe", budget: str) -> bool:
    """Teach the pretrained model some mails with orders; False after Ctrl-C."""
    from tuition.cli.demo_orders import OrdersPlan, teach_orders
    from tuition.cli.demo_use import PRETRAINED

    scribe.heading("4  Teach the pretrained model your own examples")
    return teach_orders(host, scribe, OrdersPlan(PRETRAINED, budget)) is not None


def bill(books: "Books", scribe: "Scribe") -> None:
    """One sentence for each model. Raises: TuitionError if the books do not agree with the meter."""
    from tuition.cli.demo_bill import statement_line
    from tuition.ledger.reconciliation import reconcile
    from tuition.ledger.statements import statement

    scribe.heading("5  Bill: the cost of each model")
    for model in statement(books).models:
        scribe.say(statement_line(model))
    if reconcile(books).faults:
        raise TuitionError("the books do not agree with the meter; run: tuition bill check")
    scribe.say("The books agree with the meter: attributed + idle + overhead = metered, to the last unit.")


def ending(workspace: Workspace, model: str, scribe: "Scribe") -> None:
    """How to go on, and where everything is."""
    from tuition.cli.demo_use import PRETRAINED

    tuition = sys.argv[0] if Path(sys.argv[0]).name == "tuition" else "tuition"
    scribe.say(f"\nEverything is in {workspace.root}. To go on:")
    scribe.say(f"  export TUITION_HOME={workspace.root}")
    scribe.say(f"  {tuition} serve {model} {PRETRAINED}    # then open the chat page it names")
    scribe.say(f"  {tuition} chat {PRETRAINED}    # talk in the terminal")
    scribe.say(f"  {tuition} bill    # every figure: tuition bill run, tuition bill request")
