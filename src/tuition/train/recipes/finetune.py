"""Fine-tuning: train an existing model on examples.

In: a base model and examples.  Out: a `FinetuneTask` for the training loop. Only what the
assistant says is taught; the mean is over all taught tokens of a step, so that neither packing nor
microbatches nor threads change the loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tuition.data.examples import kind_of_data
from tuition.data.lessons import Lessons, prepare_lessons
from tuition.data.packing import LessonBatch, LessonLoader, lesson_batch, num_inputs
from tuition.model.decoder import Decoder
from tuition.model.frozen import dropout_seeded
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry
from tuition.runtime.device import Precision
from tuition.runtime.thread_pool import ThreadPool
from tuition.spec.counts import forward_flops
from tuition.tokenizer.taught import Taught
from tuition.train.attention import PackedContext
from tuition.train.best import Keeps
from tuition.train.change import Measured
from tuition.train.control import Control
from tuition.train.losses import linear_cross_entropy, token_losses
from tuition.train.recipe import Evaluated, EvaluationKind, RunContext
from tuition.train.recipes.base import Base, base_of_run, open_base
from tuition.train.recipes.comparing import Comparing
from tuition.train.recipes.finetune_settings import MOST_LONGEST, FinetuneEvaluation, FinetuneSettings
from tuition.train.recipes.scored import Room, fitting, room_of
from tuition.train.scoring import TOKENS_AT_ONCE
from tuition.train.settings import wants

HELDOUT_LOSS = "held-out loss"
"""Mean loss of the examples that the training of this model held out."""
UNIT = "nats per taught token"
PROBED, SCORED = (8, 64), (16, 400)
"""Held-out examples that are scored where nobody says, in a run and around it: fewest, most."""


@dataclass(frozen=True)
class Prepared:
    """The base, the examples and the control text, before the model is loaded."""

    base: Base
    lessons: Lessons
    room: Room
    control: Control | None


class Finetune:
    """Fine-tuning as a recipe."""

    name, unit = "finetune", "taught token"

    def __init__(self, settings: FinetuneSettings) -> None:
        self.settings = settings

    def check(self, registry: Registry) -> None:
        """Raises: SettingsError, NotFoundError, ModelError, DataError where there are no examples."""
        self._longest(open_base(self.settings, registry))
        is_text = kind_of_data(self.settings.data) == "text"
        wants(not is_text, "recipe", self.name, "continue, since these files hold plain text")

    def prepare(self, context: RunContext) -> Prepared:
        """The examples in the base's tokens."""
        base = base_of_run(self.settings, context)
        for line in base.describe():
            context.progress.say(line)
        tokenizer = base.folder.tokenizer()
        longest, now = self._longest(base), context.folder.moment()
        lessons = prepare_lessons(self.settings.data, tokenizer, longest, context.progress, now=now)
        room = room_of(context, base.folder.shape, self.settings.evaluation.times)
        return Prepared(base, lessons, room, base.control(tokenizer, room))

    def _longest(self, base: Base) -> int:
        """Raises: SettingsError for more than the base can read."""
        most, longest = base.folder.shape.context_length, self.settings.longest
        wants(longest is None or longest <= most, "longest", longest, f"at most {most:,}, as the base reads")
        return longest or min(most, MOST_LONGEST)

    def max_shares(self, data: Prepared) -> int:
        return len(data.lessons.train)

    def build(self, context: RunContext, data: Prepared) -> "FinetuneTask":
        """The base's decoder. Raises: CapacityError."""
        longest = max(map(num_inputs, data.lessons.train))
        model = data.base.load(context, max(self.settings.batch_tokens, longest), longest)
        base = data.base.registered(context)
        return FinetuneTask(self.settings, context, replace(data, base=base), model)


class FinetuneTask:
    """A base model and its examples."""

    compares = True

    def __init__(
        self, settings: FinetuneSettings, context: RunContext, data: Prepared, model: Decoder
    ) -> None:
        self.settings, self.context, self.model, self.base = settings, context, model, data.base
        lessons, group = data.lessons, context.group
        self.optimizer = self.base.optimizer
        self.num_evaluations = settings.evaluation.times
        self.keeps: Keeps = "lowest score" if self.num_evaluations else "last"
        self.digests = {"corpus": lessons.digest, "base": self.base.digest}
        self.split = lessons.split
        self._num_probed, num_scored = _num_scored(settings.evaluation, context, data)
        self._heldout = lessons.heldout[:num_scored]
        sizes = tuple(map(num_taught, self._heldout))
        self._comparing = Comparing(context, model, self._measure, sizes, data.control, lessons.digest)
        self._loader = LessonLoader(
            lessons.train,
            settings.batch_tokens,
            context.settings.seed,
            rank=group.rank,
            world_size=group.size,
        )

    @property
    def epoch_batches(self) -> float:
        return self._loader.batches_per_epoch / self.context.group.size

    def batch(self, step: int) -> LessonBatch:
        return self._loader.batch(step)

    def loss(self, batch: LessonBatch, scale: float) -> Tensor:
        with dropout_seeded(self._dropout_seed(batch)):
            return lesson_loss(self.model, batch, scale)

    def _dropout_seed(self, batch: LessonBatch) -> int:
        """From the run's seed and the examples: the same for the same share of the same batch. A common
        beginning has one draw for all its examples."""
        ids = hash((self.context.settings.seed, *batch.lengths, *batch.token_ids[0, ::7].tolist()))
        return ids % 2**63

    def flops(self, batch: LessonBatch) -> int:
        shape = self.model.shape
        forward = sum(
            forward_flops(shape, group.shared, 0, num_logits=0)
            + sum(forward_flops(shape, own, group.shared, num_logits=0) for own in group.own)
            for group in batch.groups
        )
        return self.base.passes * (forward + forward_flops(shape, 0, 0, num_logits=batch.num_units))

    def evaluate(self, kind: EvaluationKind) -> Evaluated:
        """Loss on held-out examples; before and at the end also of the control text."""
        return self._comparing.evaluate(kind)

    def _measure(self, kind: EvaluationKind) -> Measured:
        precision = self.context.precision
        heldout = self._heldout[: self._num_probed] if kind == "interim" else self._heldout
        nats = lesson_nats(self.model, heldout, precision, self.context.pool)
        sizes = tuple(map(num_taught, heldout))
        method = f"each example with its own context, in {str(precision.dtype).removeprefix('torch.')}"
        return Measured(HELDOUT_LOSS, UNIT, method, tuple(nats), sizes, sum(sizes))

    def lineage(self) -> Lineage:
        return self.base.lineage(Finetune.name, self.digests["corpus"])

    def write(self, folder: Path, manifest: Mapping[str, Any]) -> Path:
        return self.base.write(folder, self.model, manifest)


def _num_scored(settings: FinetuneEvaluation, context: RunContext, data: Prepared) -> tuple[int, int]:
    """Held-out examples that are scored each time in the run, and before and after it."""
    heldout, room = data.lessons.heldout, data.room
    probed = settings.probe_examples or fitting(heldout, num_inputs, room.interim, *PROBED)
    scored = settings.examples or fitting(heldout, num_inputs, room.heldout, *SCORED)
    if settings.examples is None and scored < min(len(heldout), SCORED[1]):
        what = f"{scored:,} of {len(heldout):,} held-out examples are scored before and after"
        why = f"a budget of {context.settings.budget} has little time for it"
        context.progress.say(f"{what}: {why} (--evaluation.examples)")
    return probed, scored


def lesson_loss(model: Decoder, batch: LessonBatch, scale: float) -> Tensor:
    """Summed nats over the taught tokens of one batch, multiplied by `scale`. Logits of other tokens are not
    computed."""
    device = model.embedding.weight.device
    context = PackedContext(batch.positions.to(device), batch.groups)
    hidden = model(batch.token_ids.to(device), context)
    return linear_cross_entropy(hidden, model.head_weight, batch.targets.to(device), scale)


def num_taught(sequence: Taught) -> int:
    """Tokens of a sequence whose loss counts: the first token of an example has no prediction."""
    return int(sequence.taught[1:].sum())


def lesson_nats(
    model: Decoder, sequences: Sequence[Taught], precision: Precision, pool: ThreadPool
) -> list[float]:
    """Summed nats over the taught tokens of each sequence."""
    was_training = model.training
    model.eval()
    calls = [partial(_batch_nats, model, part, precision) for part in _parts(sequences)]
    nats = [value for values in pool.run(calls) for value in values]
    model.train(was_training)
    return nats


def _parts(sequences: Sequence[Taught]) -> list[list[Taught]]:
    """Consecutive sequences in groups of at most TOKENS_AT_ONCE tokens; a longer sequence is a group by
    itself."""
    parts: list[list[Taught]] = []
    held = 0
    for sequence in sequences:
        if not parts or held + len(sequence.ids) > TOKENS_AT_ONCE:
            parts.append([])
            held = 0
        parts[-1].append(sequence)
        held += len(sequence.ids)
    return parts


@torch.no_grad()
def _batch_nats(model: Decoder, sequences: Sequence[Taught], precision: Precision) -> list[float]:
    batch, device = lesson_batch(sequences), model.embedding.weight.device
    context = PackedContext(batch.positions.to(device), batch.groups)
    with torch.autocast(device.type, precision.dtype, enabled=precision.is_autocast, cache_enabled=False):
        hidden = model(batch.token_ids.to(device), context)
        losses = token_losses(hidden, model.head_weight, batch.targets.to(device))
    sums = torch.zeros(len(batch.lessons), dtype=torch.float64, device=device)
    return sums.index_add_(0, batch.origins.to(device), losses[0].double()).tolist()
