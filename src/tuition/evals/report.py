"""Results and comparisons as rows of tables, for people.

In: `TaskResult`s and `Comparison`s.  Out: tuples of cells; each row has as many as the heading above it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tuition.core.units import format_duration, format_time, format_usd
from tuition.evals.compare import Comparison
from tuition.evals.result import ItemResult, TaskResult
from tuition.evals.statistics import Difference, Estimate
from tuition.evals.task_file import Item, Task

RESULT_HEAD = ("task", "items", "right %", "95 % interval", "fields %", "tokens in", "out", "per item",
               "per right answer")  # fmt: skip
SIDE_HEAD = ("task", "model", *RESULT_HEAD[1:])
DIFFERENCE_HEAD = ("task", "b - a, points", "95 % interval", "p", "test", "b alone right", "a alone right")
BEFORE_AFTER_HEAD = ("task", "items", "before %", "95 % interval", "after %", "95 % interval", "points",
                     "95 % interval", "p")  # fmt: skip
UNKNOWN = "-"
MOST_SHOWN = 200


def result_row(result: TaskResult) -> tuple[str, ...]:
    """One task of one model; `fields` is the mean score where items can be right in part."""
    in_part = any(0 < item.score < 1 for item in result.items)
    cost, per_right = result.cost_nusd, result.nusd_per_right
    return (
        result.task,
        f"{len(result.items):,}",
        percent(result.accuracy),
        interval(result.accuracy),
        percent(result.mean_score) if in_part else UNKNOWN,
        f"{sum(item.prompt_tokens for item in result.items):,}",
        f"{sum(item.generated_tokens for item in result.items):,}",
        UNKNOWN if cost is None else format_usd(round(cost / len(result.items))),
        UNKNOWN if per_right is None else format_usd(round(per_right)),
    )


def side_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Both sides of a comparison."""
    return [
        (row[0], f"{side} {result.model}", *row[1:])
        for side, result in (("a", comparison.a), ("b", comparison.b))
        for row in [result_row(result)]
    ]


def difference_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The difference of the accuracies, and of the scores where they say more."""
    task = comparison.a.task
    alone = [f"{len(comparison.changed(change)):,}" for change in ("gained", "lost")]
    rows: list[tuple[str, ...]] = []
    rows.append((task, *difference_cells(comparison.accuracy), comparison.accuracy.test, *alone))
    if comparison.score is not None:
        found = comparison.score
        rows.append((f"{task}, fields", *difference_cells(found), found.test, UNKNOWN, UNKNOWN))
    return rows


def before_after_row(comparison: Comparison) -> tuple[str, ...]:
    """One task before and after teaching."""
    before, after = comparison.a.accuracy, comparison.b.accuracy
    return (
        comparison.a.task,
        f"{len(comparison.pairs):,}",
        percent(before),
        interval(before),
        percent(after),
        interval(after),
        *difference_cells(comparison.accuracy),
    )


def difference_cells(difference: Difference) -> tuple[str, str, str]:
    """Points, interval, p-value."""
    bounds = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return f"{100 * difference.value:+.1f}", bounds, p_value(difference.p_value)


def percent(found: Estimate) -> str:
    return f"{100 * found.value:.1f}"


def interval(found: Estimate) -> str:
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def p_value(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def notes(results: Sequence[TaskResult]) -> list[str]:
    """Sentences below the table: cost in all, replies that were cut or broke a limit, and the method."""
    lines = []
    for result in results:
        counts = Counter(item.note for item in result.items if item.note is not None)
        lines += [
            f"{result.task}: {count:,} of {len(result.items):,} replies {note}"
            for note, count in sorted(counts.items())
        ]
    for result in results:
        if result.taken_over:
            when = format_time(result.created_unix_ns)[:16].replace("T", " ")
            lines.append(
                f"{result.task}, {result.model}: kept result of {when}Z (--again runs the model again)"
            )
    asked = [result for result in results if not result.taken_over]
    methods = ", ".join(sorted({result.method for result in results}))
    if not asked:
        return [*lines, f"nothing was asked again; {methods}"]
    cost = [result.cost_nusd for result in asked]
    known = [each for each in cost if each is not None]
    total = f", {format_usd(sum(known))}" if len(known) == len(cost) else ""
    seconds = sum(result.wall_ns for result in asked) / 1e9
    cached = sum(item.cached_tokens or 0 for result in asked for item in result.items)
    took = f"took {format_duration(seconds)}{total}"
    return [*lines, f"{took}; {cached:,} tokens in came from the prefix cache; {methods}"]


def changes(comparison: Comparison, task: Task, most: int) -> list[str]:
    """The items that only one side has right, at most so many of each kind."""
    lines = []
    items = {item.id: item for item in task.items}
    for change, title in (("gained", "only b has right"), ("lost", "only a has right")):
        pairs = comparison.changed(change)
        if pairs and most:
            lines.append(f"\n{task.name}: {title} {len(pairs):,} items")
        for pair in pairs[:most]:
            item = items[pair.a.id]
            lines.append(f"  {item.id}  {shortened(question(item))}")
            wanted = wanted_of(item)
            lines += [f"      {name}: {shortened(text)}" for name, text in (
                ("a", pair.a.reply), ("b", pair.b.reply), *wanted)]  # fmt: skip
    return lines


def question(item: Item) -> str:
    """The prompt, or the last message."""
    return item.prompt if isinstance(item.prompt, str) else str(item.prompt[-1].get("content"))


def wanted_of(item: Item) -> list[tuple[str, str]]:
    """What a right reply is, where the item says it."""
    if item.choices:
        return [("wanted", item.choices[item.right])]
    if item.target is None:
        return []
    return [("wanted", item.target if isinstance(item.target, str) else json.dumps(item.target))]


def shortened(text: str) -> str:
    """One line of at most `MOST_SHOWN` characters."""
    line = " ".join(text.split())
    return line if len(line) <= MOST_SHOWN else f"{line[: MOST_SHOWN - 3]}..."


def kept_row(result: TaskResult, item: ItemResult) -> dict[str, Any]:
    """One item for --keep, as people and programs read it."""
    row = {"model": result.model, "task": result.task, "id": item.id, "right": item.right}
    return row | {name: getattr(item, name) for name in ITEM_CELLS}


ITEM_CELLS = ("score", "reply", "logprobs", "prompt_tokens", "cached_tokens", "generated_tokens", "cost_nusd",
              "energy_uj", "note")  # fmt: skip
