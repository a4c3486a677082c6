"""`tuition compare`: two models on the same items, with the difference, its uncertainty and its price."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from tuition.cli.arguments import Common, parse
from tuition.cli.machine import detect_for
from tuition.core.errors import SettingsError
from tuition.core.workspace import open_workspace
from tuition.engine.settings import EngineSettings
from tuition.spec.settings import MachineSettings

DESCRIPTION = """Compare two models on tasks: is B better than A, by how much, and at what cost?

Both models answer the same items. The interval is a 95 % bootstrap interval of the mean difference
(10,000 resamples of the items). The p-value comes from the exact McNemar test, or from a sign-flip
permutation test if an item can be partly right. Results that `tuition eval --tasks` or an earlier
comparison has kept are used again if weights, tokenizer, settings, task and the price of the
machine are the same.

Example:
  tuition compare smollm2-135m-instruct support --tasks orders.task.jsonl"""


@dataclass(frozen=True, kw_only=True)
class Compare(Common):
    """What `tuition compare` takes."""

    a: tyro.conf.Positional[str]
    """Name, name@version, folder, GGUF file, or http://HOST:PORT#MODEL of an OpenAI-compatible server."""
    b: tyro.conf.Positional[str]
    """The model to compare with A, in the same forms."""
    tasks: tuple[Path, ...] = ()
    """Task files (.jsonl), see tuition eval --help."""
    show: int = 5
    """Most items to show of each kind: right only with A, right only with B."""
    again: tyro.conf.FlagCreatePairsOff[bool] = False
    """Run both models even if results of an earlier run are kept."""
    keep: Path | None = None
    """Write every reply of both models to this .jsonl file."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """How the models run."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """Values that you know for this machine and its price."""

    def __post_init__(self) -> None:
        if self.show < 0:
            raise SettingsError("show", got=self.show, wanted="0 or more")


def run(argv: list[str]) -> int:
    """Compare and print."""
    arguments = parse(Compare, argv, verb="compare", description=DESCRIPTION)
    if not arguments.tasks:
        raise SettingsError("tasks", got=(), wanted="--tasks with at least one task file")
    from tuition.books.books import open_books
    from tuition.cli.bill_tables import aligned
    from tuition.cli.task_runs import TaskRuns, check_keep, keep, read_tasks
    from tuition.cli.terminal import HeldBack, open_progress
    from tuition.evals.compare import compare
    from tuition.evals.report import DIFFERENCE_HEAD, SIDE_HEAD, changes, difference_rows, notes, side_rows

    tasks = read_tasks(arguments.tasks)
    check_keep(arguments.keep, tasks)
    workspace = open_workspace(arguments.workspace).create()
    machine = detect_for(arguments.engine.device, arguments.machine, workspace)
    with open_books(workspace) as books:
        runs = TaskRuns(workspace, books, machine, arguments.engine, HeldBack(open_progress()))
        a, b = (
            runs.results(reference, tasks, reuse=not arguments.again)
            for reference in (arguments.a, arguments.b)
        )
    found = [compare(*both) for both in zip(a, b, strict=True)]
    print(aligned([SIDE_HEAD, *(row for each in found for row in side_rows(each))], left=(0, 1)))
    print()
    print(aligned([DIFFERENCE_HEAD, *(row for each in found for row in difference_rows(each))], left=(0, 4)))
    print("\n".join(notes([*a, *b])))
    for each, task in zip(found, tasks, strict=True):
        for line in changes(each, task, arguments.show):
            print(line)
    if arguments.keep is not None:
        keep(arguments.keep, [*a, *b])
        print(f"replies: {arguments.keep}")
    return 0
