"""Continued pretraining: teach a model that exists already more plain text.

In: a base model and text.  Out: a `FinetuneTask` for the training loop. Its tokenizer and
its context length stay.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tuition.data.corpora import with_demo_titles
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.documents import sources_of
from tuition.data.loader import Batch, Loader
from tuition.model.decoder import Decoder
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry
from tuition.spec.counts import training_flops
from tuition.train.best import Keeps
from tuition.train.change import Measured
from tuition.train.control import Control
from tuition.train.recipe import Evaluated, EvaluationKind, RunContext
from tuition.train.recipes.base import Base, base_of_run, open_base
from tuition.train.recipes.comparing import Comparing
from tuition.train.recipes.continued_settings import ContinuedEvaluation, ContinuedSettings
from tuition.train.recipes.pretrain import next_token_loss
from tuition.train.recipes.scored import BYTES_PER_TOKEN, Room, room_of
from tuition.train.scoring import HELDOUT_TASK, TokenBytes, beginnings, score_documents, window_method
from tuition.train.settings import wants

PROBED, SCORED = (2_048, 16_384), (8_192, 131_072)
"""Held-out bytes that are scored where nobody says, in a run and around it: fewest, most."""
MOST_SEQ_LEN = 512
"""Tokens of a row if nothing else is set."""


@dataclass(frozen=True)
class Prepared:
    """The base, the examples and the control text, before the model is loaded."""

    base: Base
    corpus: Corpus
    tokens: TokenBytes
    room: Room
    control: Control | None
    seq_len: int


class Continued:
    """See the module."""

    name, unit = "continue", "token"

    def __init__(self, settings: ContinuedSettings) -> None:
        self.settings = settings

    def check(self, registry: Registry) -> None:
        """Raises: SettingsError, NotFoundError, ModelError, DataError where there is no text."""
        self._seq_len(open_base(self.settings, registry))
        sources_of(with_demo_titles(self.settings.data))

    def prepare(self, context: RunContext) -> Prepared:
        """The text in the base's tokens."""
        base = base_of_run(self.settings, context)
        for line in base.describe():
            context.progress.say(line)
        tokenizer = base.folder.tokenizer()
        corpus = prepare_corpus(self.settings.data, tokenizer, context.workspace.data, context.progress)
        room = room_of(context, base.folder.shape, self.settings.evaluation.times)
        control = base.control(tokenizer, room)
        return Prepared(base, corpus, TokenBytes.of(tokenizer), room, control, self._seq_len(base))

    def _seq_len(self, base: Base) -> int:
        """Raises: SettingsError for more than the base can read."""
        most, given = base.folder.shape.context_length, self.settings.seq_len
        wants(given is None or given <= most, "seq_len", given, f"at most {most:,}, as the base reads")
        return given or min(most, MOST_SEQ_LEN)

    def max_shares(self, data: Prepared) -> int:
        return self.settings.batch_size

    def build(self, context: RunContext, data: Prepared) -> "ContinuedTask":
        """The base's decoder. Raises: CapacityError."""
        model = data.base.load(context, self.settings.batch_size * data.seq_len, data.seq_len)
        base = data.base.registered(context)
        return ContinuedTask(self.settings, context, replace(data, base=base), model)


class ContinuedTask:
    """A base model and more text."""

    compares = True

    def __init__(
        self, settings: ContinuedSettings, context: RunContext, data: Prepared, model: Decoder
    ) -> None:
        self.settings, self.context, self.model, self.base = settings, context, model, data.base
        corpus, group = data.corpus, context.group
        self.optimizer = self.base.optimizer
        self.num_evaluations = settings.evaluation.times
        self.keeps: Keeps = "lowest score" if self.num_evaluations else "last"
        self.digests = {"corpus": corpus.digest, "base": self.base.digest}
        self.split = corpus.describe_split()
        self._seq_len, self._tokens = data.seq_len, data.tokens
        documents = [corpus.heldout.document(index) for index in range(corpus.heldout.info.num_documents)]
        probed, scored = _bytes_scored(settings.evaluation, context, data)
        self._final = beginnings(documents, data.tokens, scored)
        self._probe = beginnings(documents, data.tokens, probed)
        sizes = tuple(map(data.tokens.num_bytes, self._final))
        self._comparing = Comparing(context, model, self._measure, sizes, data.control, corpus.digest)
        self._loader = Loader(
            corpus.train,
            settings.batch_size,
            data.seq_len,
            context.settings.seed,
            rank=group.rank,
            world_size=group.size,
        )

    @property
    def epoch_batches(self) -> float:
        return self._loader.epoch_steps

    def batch(self, step: int) -> Batch:
        return self._loader.batch(step)

    def loss(self, batch: Batch, scale: float) -> Tensor:
        return next_token_loss(self.model, batch, scale)

    def flops(self, batch: Batch) -> int:
        whole = training_flops(self.model.shape, batch.num_tokens, self._seq_len)
        return whole * self.base.passes // 3

    def evaluate(self, kind: EvaluationKind) -> Evaluated:
        """Held-out bits per byte; before and at the end also of the control text."""
        return self._comparing.evaluate(kind)

    def _measure(self, kind: EvaluationKind) -> Measured:
        precision, window = self.context.precision, self._seq_len
        stride = max(1, window // 2)
        texts = self._probe if kind == "interim" else self._final
        scores = score_documents(
            self.model, texts, self._tokens,
            window=window, stride=stride, precision=precision, pool=self.context.pool,
        )  # fmt: skip
        bits = tuple(score.nats / math.log(2) for score in scores)
        sizes = tuple(score.num_bytes for score in scores)
        method = window_method(window, stride, str(precision.dtype).removeprefix("torch."))
        num_tokens = sum(score.num_tokens for score in scores)
        return Measured(HELDOUT_TASK, "bits per byte", method, bits, sizes, num_tokens)

    def lineage(self) -> Lineage:
        return self.base.lineage(Continued.name, self.digests["corpus"])

    def write(self, folder: Path, manifest: Mapping[str, Any]) -> Path:
        return self.base.write(folder, self.model, manifest)


def _bytes_scored(settings: ContinuedEvaluation, context: RunContext, data: Prepared) -> tuple[int, int]:
    """Held-out bytes that are scored each time in the run, and before and after it."""
    room, there = data.room, data.corpus.heldout_bytes
    probed = settings.probe_bytes or _fitting_bytes(room.interim, *PROBED)
    scored = settings.final_bytes or _fitting_bytes(room.heldout, *SCORED)
    if settings.final_bytes is None and scored < min(there, SCORED[1]):
        what = f"{scored:,} of {there:,} held-out bytes are scored before and after"
        why = f"a budget of {context.settings.budget} has little time for it"
        context.progress.say(f"{what}: {why} (--evaluation.final-bytes)")
    return probed, scored


def _fitting_bytes(room: int, least: int, most: int) -> int:
    """Windows overlap by half, so that a byte is computed about twice."""
    return max(least, min(most, BYTES_PER_TOKEN * room // 2))
