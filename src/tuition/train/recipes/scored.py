"""How much is scored before, during and after training from a model, where nobody says.

In: the budget of a run, the shape of its base, the speed of this machine.  Out: tokens that a short budget
has time for. A run by steps or epochs scores the same everywhere.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from tuition.core.durable import write_json
from tuition.plan.shape import EVALUATION_SHARE, num_tokens_in
from tuition.runtime.speed import product_flops_per_s
from tuition.spec.shape import ModelShape
from tuition.train.recipe import RunContext
from tuition.train.settings import MOST

ROOM = "evaluation.json"
"""File in the run's folder: a run that is resumed scores the same."""
HELDOUT_SHARE, CONTROL_SHARE = 0.1, 0.05
"""Of the budget, each time: before training and at its end."""
BYTES_PER_TOKEN = 3
_FORWARDS = 3
"""Tokens that are scored in the time of one that is taught."""
_LONG_ROW = 256

T = TypeVar("T")


@dataclass(frozen=True)
class Room:
    """Tokens that may be scored at a time."""

    heldout: int
    """Before training and at its end."""
    interim: int
    """Each time between."""
    control: int


NO_LIMIT = Room(MOST, MOST, MOST)


def room_of(context: RunContext, shape: ModelShape, times: int) -> Room:
    """What the budget of a run has room for; without one, anything. `times`: evaluations in the run."""
    seconds, kept = context.settings.budget_s, context.folder.path / ROOM
    if seconds is None:
        return NO_LIMIT
    if kept.is_file():
        return Room(**json.loads(kept.read_text(encoding="utf-8")))
    speed = product_flops_per_s(context.device, context.precision)
    tokens = _FORWARDS * num_tokens_in(seconds, speed, shape, min(_LONG_ROW, shape.context_length))
    interim = EVALUATION_SHARE * tokens / max(1, times - 1)
    room = Room(int(HELDOUT_SHARE * tokens), int(interim), int(CONTROL_SHARE * tokens))
    write_json(kept, asdict(room))
    return room


def fitting(items: Sequence[T], size: Callable[[T], int], room: int, least: int, most: int) -> int:
    """How many of the first items have about `room` tokens together, at least `least` and at most `most`."""
    most = min(most, len(items))
    held = number = 0
    while number < most and (number < least or held + size(items[number]) <= room):
        held += size(items[number])
        number += 1
    return number
