"""Pretraining: predict the next token of plain text, from fresh weights.

In: settings and text.  Out: a decoder that is taught, as the training loop takes it (see `train/recipe`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tuition.core.durable import publish_folder, write_json
from tuition.core.units import format_bytes, format_duration
from tuition.data.corpora import with_demo_titles
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.documents import sources_of
from tuition.data.loader import Batch, Loader
from tuition.data.sample import sample_texts
from tuition.data.shards import TokenSet
from tuition.model.decoder import Decoder
from tuition.model.induction import give_induction
from tuition.model.save import save_model
from tuition.plan.memory import require_training
from tuition.plan.shape import (
    STANDARD,
    STANDARD_EVALUATION,
    EvaluationPlan,
    ModelSize,
    evaluation_for,
    num_tokens_in,
    size_for,
)
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry
from tuition.runtime.memory import free_bytes
from tuition.runtime.speed import product_flops_per_s
from tuition.spec.counts import training_flops
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe
from tuition.train.attention import training_context
from tuition.train.best import Keeps
from tuition.train.losses import linear_cross_entropy
from tuition.train.recipe import Evaluated, EvaluationKind, RunContext
from tuition.train.recipes.pretrain_settings import PretrainSettings
from tuition.train.recipes.pretrain_sizes import Sizes, complete, evaluations, first_weights, is_open
from tuition.train.samples import Drawing, write_sample
from tuition.train.scoring import (
    HELDOUT_TASK,
    TokenBytes,
    beginnings,
    bits_per_byte,
    score_documents,
    window_method,
)
from tuition.train.settings import PRETRAINING

SIZE = "size.json"
"""File in the run's folder with the sizes that the settings leave open."""
MOST_OF_GUESSING = 0.7
"""A model that needs more than this share of the bits of guessing by frequency writes many words that do not
exist (`known_words` in bench/results/sweep_shape.json; one sample each, so single rows scatter)."""
MOST_COUNTED = 2**22
"""Tokens that are counted for guessing."""


@dataclass(frozen=True)
class Prepared:
    """The base, the examples and the control text, before the model is loaded."""

    sizes: Sizes
    evaluation: EvaluationPlan
    tokenizer: Tokenizer
    corpus: Corpus


class Pretrain:
    """See the module."""

    name, unit = "pretrain", "token"

    def __init__(self, settings: PretrainSettings) -> None:
        self.settings = settings

    def check(self, registry: Registry) -> None:
        """Raises: SettingsError, DataError where there is no text, or sizes do not go together."""
        sources_of(with_demo_titles(self.settings.data))
        sizes = complete(self.settings)
        if not is_open(self.settings):
            first_weights(self.settings, sizes.model_shape(self.settings.shape, sizes.vocab_size))

    def prepare(self, context: RunContext) -> Prepared:
        """Sizes, the tokenizer, and the text in its tokens. Raises: SettingsError, DataError."""
        sizes, evaluation = self._sizes(context)
        tokenizer = self._tokenizer(context, sizes.vocab_size)
        corpus = prepare_corpus(self.settings.data, tokenizer, context.workspace.data, context.progress)
        return Prepared(sizes, evaluation, tokenizer, corpus)

    def _sizes(self, context: RunContext) -> tuple[Sizes, EvaluationPlan]:
        """The sizes that are set; the others follow from budget, text and machine, and are stored,
        so that a resume does not change them. A run by steps is the same on every machine."""
        settings, kept, seconds = self.settings, context.folder.path / SIZE, context.settings.budget_s
        found = ModelSize(**json.loads(kept.read_text(encoding="utf-8"))) if kept.is_file() else None
        if seconds is None:
            size, plan = found or STANDARD, STANDARD_EVALUATION
            sizes = complete(settings, size)
        else:
            speed = product_flops_per_s(context.device, context.precision)
            text_bytes = sum(source.num_bytes for source in sources_of(with_demo_titles(settings.data)))
            size = found or size_for(seconds, speed, text_bytes)
            sizes = complete(settings, size)
            shape = sizes.model_shape(settings.shape, sizes.vocab_size)
            plan = evaluation_for(seconds, num_tokens_in(seconds, speed, shape, sizes.seq_len))
            if found is None and is_open(settings):
                why = f"{format_duration(seconds)}, {format_bytes(text_bytes)} of text and this machine"
                way_out = "--shape.hidden-size, --vocab-size and so on set others"
                context.progress.say(f"sizes for {why}: {sizes.describe()} ({way_out})")
        if found is None:
            write_json(kept, asdict(size))
        return sizes, evaluations(settings.evaluation, plan)

    def _tokenizer(self, context: RunContext, vocab_size: int) -> Tokenizer:
        """The run's own from before a resume, the one that was given, or one trained on the text now."""
        own, given = context.folder.tokenizer, self.settings.tokenizer
        if own.is_dir():
            return Tokenizer.load(own)
        if given is not None:
            tokenizer = Tokenizer.load(given) if given.is_dir() else Tokenizer.from_file(given)
        else:
            texts = sample_texts(self.settings.data)
            tokenizer = train_bpe(texts, vocab_size, progress=context.progress)
        publish_folder(own, tokenizer.save)
        return tokenizer

    def max_shares(self, data: Prepared) -> int:
        return data.sizes.batch_size

    def build(self, context: RunContext, data: Prepared) -> "PretrainTask":
        """A decoder with fresh weights. Raises: CapacityError, ShapeError, DataError."""
        sizes = data.sizes
        shape = sizes.model_shape(self.settings.shape, data.tokenizer.vocab_size)
        require_training(
            shape,
            sizes.batch_size,
            sizes.seq_len,
            context.settings.optimizer.filled(PRETRAINING).kind or "adamw",
            free_bytes(context.device),
            context.pool.size,
        )
        begins = first_weights(self.settings, shape)
        model = Decoder(shape).initialize(outputs="zero")  # drawn on the CPU: all devices begin alike
        if begins == "induction":
            give_induction(model)
        context.progress.say(f"first weights: {begins}")
        return PretrainTask(self.settings, context, data, model.to(context.device))


class PretrainTask:
    """A decoder and its training text."""

    optimizer, compares = PRETRAINING, False
    keeps: Keeps = "last"

    def __init__(
        self, settings: PretrainSettings, context: RunContext, data: Prepared, model: Decoder
    ) -> None:
        self.settings, self.context, self.model = settings, context, model
        self.tokenizer, self.corpus, self.sizes, self.plan = (
            data.tokenizer, data.corpus, data.sizes, data.evaluation,
        )  # fmt: skip
        self.num_evaluations = self.plan.times
        self.digests = {"corpus": self.corpus.digest, "tokenizer": self.tokenizer.digest}
        self.split = self.corpus.describe_split()
        group, seed = context.group, context.settings.seed
        self._loader = Loader(
            self.corpus.train,
            self.sizes.batch_size,
            self.sizes.seq_len,
            seed,
            rank=group.rank,
            world_size=group.size,
        )

    def batch(self, step: int) -> Batch:
        return self._loader.batch(step)

    def loss(self, batch: Batch, scale: float) -> Tensor:
        return next_token_loss(self.model, batch, scale)

    @property
    def epoch_batches(self) -> float:
        return self._loader.epoch_steps

    def flops(self, batch: Batch) -> int:
        return training_flops(self.model.shape, batch.num_tokens, self.sizes.seq_len)

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes.of(self.tokenizer)

    def evaluate(self, kind: EvaluationKind) -> Evaluated:
        """Held-out bits per byte, and continuations of the prompts."""
        precision, window, heldout = self.context.precision, self.sizes.seq_len, self.corpus.heldout
        stride = max(1, window // 2)
        scores = score_documents(
            self.model,
            beginnings(
                [heldout.document(index) for index in range(heldout.info.num_documents)],
                self._token_bytes,
                self.plan.probe_bytes if kind == "interim" else self.plan.final_bytes,
            ),
            self._token_bytes,
            window=window,
            stride=stride,
            precision=precision,
            pool=self.context.pool,
        )
        samples = self._samples() if self.settings.evaluation.sample_tokens else ()
        method = window_method(window, stride, str(precision.dtype).removeprefix("torch."))
        score = bits_per_byte(scores, HELDOUT_TASK, method)
        score = replace(score, data_digest=self.corpus.digest)
        return Evaluated(score, samples, self._warning(score.value))

    def _samples(self) -> tuple[str, ...]:
        settings, seed = self.settings.evaluation, self.context.settings.seed
        samples = []
        for index, prompt in enumerate(settings.sample_prompts):
            how = Drawing(settings.sample_tokens, settings.temperature, settings.top_p, seed + index)
            samples.append(write_sample(self.model, self.tokenizer, prompt, how, self.context.precision))
        return tuple(samples)

    @cached_property
    def _guessing(self) -> float:
        return guessed_bits_per_byte(self.corpus.train.tokens, self.corpus.heldout, self._token_bytes)

    def _warning(self, bits_per_byte: float) -> str | None:
        """Whether the model was taught too briefly to write words: it is hardly better than guessing."""
        guessing = self._guessing
        if bits_per_byte <= MOST_OF_GUESSING * guessing:
            return None
        guess = f"guessing tokens by their frequency needs {guessing:.2f}"
        problem = f"taught too briefly to be of use: {bits_per_byte:.2f} bits per byte, and {guess}"
        return f"{problem}; give it more time (--budget or --steps)"

    def lineage(self) -> Lineage:
        return Lineage(
            corpus_digest=self.corpus.digest,
            tokenizer_digest=self.tokenizer.digest,
            first_weights=first_weights(self.settings, self.model.shape),
        )

    def write(self, folder: Path, manifest: Mapping[str, Any]) -> Path:
        """A Hugging Face folder."""
        shape = self.model.shape
        return save_model(folder, self.model, shape, self.tokenizer, manifest, dtype=self.settings.save_as)


def guessed_bits_per_byte(taught: np.ndarray, heldout: TokenSet, tokens: TokenBytes) -> float:
    """Bits per byte of a predictor that knows only the frequency of each token."""
    counts = np.bincount(taught[:MOST_COUNTED].astype(np.int64), minlength=len(tokens.inside)) + 1.0
    bits = -np.log2(counts / counts.sum())
    held = np.asarray(heldout.tokens[:MOST_COUNTED], dtype=np.int64)
    held = held[~np.isin(held, list(tokens.marks))]
    return float(bits[held].sum() / max(1, tokens.inside[held].sum()))


def next_token_loss(model: Decoder, batch: Batch, scale: float) -> Tensor:
    """Summed nats over the targets of one batch, multiplied by `scale`."""
    device = model.embedding.weight.device
    is_plain = batch.segments is None
    positions = batch.positions[:1] if is_plain else batch.positions  # equal rows: angles are made once
    segments = None if is_plain or batch.segments is None else batch.segments.to(device)
    hidden = model(batch.token_ids.to(device), training_context(positions.to(device), segments))
    return linear_cross_entropy(hidden, model.head_weight, batch.targets.to(device), scale)
