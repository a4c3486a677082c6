"""`tuition demo`: teach a model, use it, use a pretrained one, read the bill: a walk through the whole house.

Every step does what the other verbs do, through the same functions and a real server process. What is printed
is kept in the workspace as `demo.txt`. A second demo reuses the model that the first one taught.
"""

import sys
from dataclasses import dataclass, field

from tuition.cli.arguments import Common, parse
from tuition.cli.machine import detect_for
from tuition.core.units import parse_duration_s
from tuition.core.workspace import open_workspace
from tuition.spec.settings import MachineSettings

DESCRIPTION = "Teach a small model from scratch, use it, use a pretrained one, and read the bill."
INTERRUPTED = 130
DEFAULT_BUDGET = "4min"
"""A model that was taught this long or longer must also write well; a shorter look is only shown."""


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """What `tuition demo` takes."""

    budget: str = DEFAULT_BUDGET
    """Wall time of the training loop, with its unit."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """What you know better about this machine and its price."""

    def __post_init__(self) -> None:
        parse_duration_s(self.budget, "budget")  # before anything is printed or kept


def run(argv: list[str]) -> int:
    """0 only if every step really worked; 130 after Ctrl-C, with what was taught kept and billed."""
    arguments = parse(Demo, argv, verb="demo", description=DESCRIPTION)
    from tuition.books.books import open_books
    from tuition.cli.demo_bill import bill, ending
    from tuition.cli.demo_teach import teach
    from tuition.cli.demo_use import use, use_pretrained
    from tuition.cli.scribe import Scribe
    from tuition.cli.terminal import open_progress

    workspace = open_workspace(arguments.workspace).create()
    scribe = Scribe(open_progress(sys.stdout), workspace.root / "demo.txt")
    machine = detect_for("auto", arguments.machine, workspace)
    rate = f"${machine.usd_per_hour:.4f} ({machine.origins['usd_per_hour'].provenance})"
    scribe.say("tuition demo: the whole life of a model, on this machine")
    scribe.say(f"{machine.name}; an hour of it is taken to cost {rate}")
    try:
        with open_books(workspace) as books:
            taught = teach(arguments.budget, workspace, books, machine, scribe)
            if taught is None:
                return INTERRUPTED
            requests = use(taught, workspace, books, arguments.machine, scribe)
            more, missing = use_pretrained(workspace, books, arguments.machine, scribe)
            bill([*requests, *more], books, scribe)
        ending(workspace, taught, scribe)
    finally:
        scribe.save()
    if missing:
        print(f"tuition: the demo is not complete: {missing}", file=sys.stderr)
    return 1 if missing else 0
