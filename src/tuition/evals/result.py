"""The result of a model on a task: kept as a file, so that later comparisons can use it again.

In: a finished run.  Out: a `TaskResult`. The file is .jsonl: a line about the run, then one line per item.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuition.core.durable import write_durably
from tuition.core.errors import SettingsError
from tuition.core.records import Score
from tuition.core.settings import from_table
from tuition.evals.statistics import Estimate, estimate

FORMAT = 1
"""Raise this number when the same run gives other results than with an older version of this program."""

CUT = "were cut at max_tokens"
"""The note on a reply that did not end by itself."""


@dataclass(frozen=True)
class ItemResult:
    """One item."""

    id: str
    score: float
    """1: right, 0: wrong, between: the share of fields that are right."""
    reply: str
    """The generated text, or the most likely choice."""
    logprobs: tuple[float, ...]
    """With choices: the log-likelihood of each, in nats."""
    prompt_tokens: int
    cached_tokens: int | None
    """Of prompt_tokens: taken from the prefix cache; None if a server does not report it."""
    generated_tokens: int
    cost_nusd: int | None
    """None if the backend reports no cost."""
    energy_uj: int | None
    note: str | None = None
    """Why a reply could not be judged, or that it was cut."""

    @property
    def right(self) -> bool:
        return self.score == 1


@dataclass(frozen=True)
class TaskResult:
    """All items of a task, in the order of its file."""

    task: str
    kind: str
    task_digest: str
    model: str
    """`name@version`, or a path or address."""
    model_digest: str | None
    method: str
    """Number format and runner, for people."""
    wall_ns: int
    created_unix_ns: int
    items: tuple[ItemResult, ...]
    taken_over: bool = False
    """Read from the file of an earlier run."""

    @property
    def num_right(self) -> int:
        return sum(item.right for item in self.items)

    @property
    def accuracy(self) -> Estimate:
        """The share of right items."""
        return estimate([float(item.right) for item in self.items])

    @property
    def mean_score(self) -> Estimate:
        """Differs from the accuracy if an item is partly right."""
        return estimate([item.score for item in self.items])

    @property
    def cost_nusd(self) -> int | None:
        return _total(item.cost_nusd for item in self.items)

    @property
    def energy_uj(self) -> int | None:
        return _total(item.energy_uj for item in self.items)

    @property
    def nusd_per_right(self) -> float | None:
        """Cost of all answers divided by the number of right ones; None if no answer is right."""
        cost = self.cost_nusd
        return cost / self.num_right if cost is not None and self.num_right else None

    def score(self) -> Score:
        """The accuracy as a record for the registry."""
        found = self.accuracy
        variance = found.value * (1 - found.value) / len(self.items)
        return Score(
            task=f"{self.task} accuracy"[:80],
            value=found.value,
            stderr=variance**0.5 or None,
            unit=f"of {self.task} right"[:40],
            method=self.method,
            num_items=len(self.items),
            num_tokens=sum(item.prompt_tokens + item.generated_tokens for item in self.items),
            data_digest=self.task_digest,
        )


def _total(parts: Iterable[int | None]) -> int | None:
    known = list(parts)
    return None if None in known else sum(part for part in known if part is not None)


def result_key(task_digest: str, model_digest: str, settings: dict[str, Any]) -> str:
    """Key of a kept result: a hash of task, weights, and the settings of the run."""
    told = json.dumps([FORMAT, task_digest, model_digest, settings], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


NOT_STORED = ("items", "taken_over")
"""Fields of a result that are not in the first line of its file."""


def write_result(path: Path, result: TaskResult) -> None:
    """Replace `path` by the result in one step, with a digest of all that it says. Raises: OSError."""
    head = {name: value for name, value in vars(result).items() if name not in NOT_STORED}
    rows: list[Any] = [head | {"format": FORMAT}, *map(asdict, result.items)]
    rows.append({"sha256": _digest(rows)})
    write_durably(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_result(path: Path) -> TaskResult | None:
    """A kept result; None where there is none, or it was changed or is of another format."""
    try:
        *rows, end = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        if end["sha256"] != _digest(rows):
            return None
        head, *told = rows
        if head.pop("format") != FORMAT:
            return None
        items = tuple(from_table(ItemResult, row) for row in told)
        return TaskResult(**head, items=items, taken_over=True) if items else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SettingsError):
        return None


def _digest(rows: list[Any]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
