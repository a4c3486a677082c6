"""Check a reply by the kind of its task.  In: an item and a reply.  Out: a score from 0 to 1."""

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from tuition.evals.function_process import FunctionProcess
from tuition.evals.task_file import Item, TaskKind

_NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-+])?"  # a sign, but not the dash in 3-5
    r"(?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)"  # 1,234.5 is one number, 2,3 are two
    r"(?:[eE][-+]?\d+)?"
)
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)


def judge(kind: TaskKind, item: Item, reply: str) -> float:
    """1 for a right reply; with `json` the share of the fields that are right, 1 only if all are.

    `choice` is judged by log-likelihood (`run`), `regex` and `python` by a function with limits (`judged`).
    """
    if kind == "exact":
        accepted = item.target if isinstance(item.target, list) else [item.target]
        return float(reply.strip() in {target.strip() for target in accepted})
    if kind == "number":
        found = last_number(reply)
        return float(found is not None and found == Decimal(str(item.target)))
    if kind == "json":
        return json_match(reply, item.target)
    raise ValueError(f"replies of kind {kind} are not judged here")


def judged(
    kind: TaskKind, item: Item, reply: str, function: FunctionProcess | None
) -> tuple[float, str | None]:
    """The score of a generated reply, by `function` where its task has one, and a note on it.

    Raises: DataError where the function fails.
    """
    if function is None:
        return judge(kind, item, reply), None
    score, limit = function.score(dict(item.given), reply)
    return score, None if limit is None else f"counted as wrong: judging it {limit}"


def last_number(reply: str) -> Decimal | None:
    """The last number in a text; commas between its digits are left out."""
    found = _NUMBER.findall(reply)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:
        return None


def json_match(reply: str, target: dict[str, Any]) -> float:
    """The share of the fields of either side that are in both with the same value.

    The reply is JSON, alone or inside one code fence. Numbers are equal by value, true is not 1.
    """
    text = reply.strip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1]
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return 0.0
    if not isinstance(said, dict):
        return 0.0
    names = set(said) | set(target)
    same = [name for name in names if name in said and name in target and equal(said[name], target[name])]
    return len(same) / len(names)


def equal(left: Any, right: Any) -> bool:
    """Equality of JSON values, in which true and 1 are different and 1 and 1.0 are the same."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return set(left) == set(right) and all(equal(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right
