"""`tuition data`: look at examples, or make some."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from tuition.cli.arguments import Common, choose, parse
from tuition.cli.data_show import show
from tuition.core.errors import SettingsError

ACTIONS = {
    "show": "show the first rows of a file exactly as a model will see them, with taught tokens marked",
    "make": "write the examples and the held-out task of a family: orders, problems, tools, canonical",
}


def run(argv: list[str]) -> int:
    action, words = choose(ACTIONS, argv, verb="data", default="show")
    return {"show": show, "make": make}[action](words)


@dataclass(frozen=True, kw_only=True)
class Make(Common):
    """What `tuition data make` takes."""

    family: tyro.conf.Positional[str]
    """orders: order e-mails to JSON. problems: word problems to a number. tools: requests to tool calls.
    canonical: dates, amounts of money and measures to a canonical form."""
    rows: int = 400
    """Number of examples to teach."""
    heldout: int = 400
    """Number of items of the held-out task. They share no template, name, product, date or number with the
    examples."""
    seed: int = 1
    """The same seed gives the same rows."""
    out: Path = Path(".")
    """Folder for FAMILY.jsonl and FAMILY.task.jsonl."""

    def __post_init__(self) -> None:
        for name in ("rows", "heldout"):
            if getattr(self, name) < 1:
                raise SettingsError(name, got=getattr(self, name), wanted="at least 1")


def make(argv: list[str]) -> int:
    """Write both files and say how to use them."""
    arguments = parse(
        Make,
        argv,
        verb="data make",
        description="Write examples to teach, and a held-out task whose answers are checked exactly.",
    )
    from tuition.evals.tasks.files import write_family

    files = write_family(
        arguments.out.expanduser(),
        arguments.family,
        rows=arguments.rows,
        heldout=arguments.heldout,
        seed=arguments.seed,
    )
    print(f"{files.teaching}: {arguments.rows:,} examples to teach")
    print(f"{files.task}: {arguments.heldout:,} items of other templates, names and numbers")
    print(f"before and after teaching: tuition eval MODEL --tasks {files.task}")
    return 0
