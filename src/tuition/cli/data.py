"""`tuition data`: look at examples, or make some."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from tuition.cli.arguments import Common, choose, parse
from tuition.cli.data_show import show
from tuition.core.errors import SettingsError

ACTIONS = {
    "show": "the first rows of a file exactly as a model will see them, with the taught tokens marked",
    "make": "write the examples and the held-out task of a family: orders, problems, tools, canonical",
}


def run(argv: list[str]) -> int:
    action, words = choose(ACTIONS, argv, verb="data", default="show")
    return {"show": show, "make": make}[action](words)


@dataclass(frozen=True, kw_only=True)
class Make(Common):
    """What `tuition data make` takes."""

    family: tyro.conf.Positional[str]
    """orders: mails to JSON. problems: word problems. tools: requests to calls. canonical: dates, money and
    measures to one form."""
    rows: int = 400
    """Examples to teach."""
    heldout: int = 400
    """Items of the held-out task; no template, name, product, date or number of theirs is in the examples."""
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
    arguments = parse(Make, argv, verb="data make", description="Make examples with an exact checker.")
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
