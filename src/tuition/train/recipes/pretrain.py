"""Pretraining: predict the next token of plain text, from fresh weights.

In: settings and text.  Out: a decoder that is taught, as the training loop takes it (see `train/recipe`).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from tuition.core.durable import publish_folder
from tuition.data.corpora import with_demo_titles
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.documents import sources_of
from tuition.data.loader import Batch, Loader
from tuition.data.sample import sample_texts
from tuition.model.decoder import Decoder
from tuition.model.induction import give_induction
from tuition.model.save import save_model
from tuition.plan.memory import require_training
from tuition.registry.lineage import Lineage
from tuition.runtime.memory import free_bytes
from tuition.spec.counts import training_flops
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe
from tuition.train.attention import training_context
from tuition.train.losses import linear_cross_entropy
from tuition.train.recipe import Evaluated, EvaluationKind, RunContext
from tuition.train.recipes.pretrain_settings import PretrainSettings
from tuition.train.samples import write_sample
from tuition.train.scoring import HELDOUT_TASK, TokenBytes, bits_per_byte, score_documents, window_method


class Pretrain:
    """See the module."""

    name, unit = "pretrain", "token"

    def __init__(self, settings: PretrainSettings) -> None:
        self.settings = settings

    @property
    def max_shares(self) -> int:
        return self.settings.batch_size

    def check(self) -> None:
        """Raises: SettingsError, DataError where there is no text."""
        sources_of(with_demo_titles(self.settings.data))

    def prepare(self, context: RunContext) -> tuple[Tokenizer, Corpus]:
        """The tokenizer and the text in its tokens. Raises: SettingsError, DataError."""
        tokenizer = self._tokenizer(context)
        corpus = prepare_corpus(self.settings.data, tokenizer, context.workspace.data, context.progress)
        return tokenizer, corpus

    def _tokenizer(self, context: RunContext) -> Tokenizer:
        """The run's own from before a resume, the one that was given, or one trained on the text now."""
        own, given = context.folder.tokenizer, self.settings.tokenizer
        if own.is_dir():
            return Tokenizer.load(own)
        if given is not None:
            tokenizer = Tokenizer.load(given) if given.is_dir() else Tokenizer.from_file(given)
        else:
            texts = sample_texts(self.settings.data)
            tokenizer = train_bpe(texts, self.settings.vocab_size, progress=context.progress)
        publish_folder(own, tokenizer.save)
        return tokenizer

    def build(self, context: RunContext, data: tuple[Tokenizer, Corpus]) -> "PretrainTask":
        """A decoder with fresh weights. Raises: CapacityError, ShapeError, DataError."""
        tokenizer, corpus = data
        settings = self.settings
        shape = settings.shape.model_shape(tokenizer.vocab_size, settings.seq_len)
        require_training(
            shape,
            settings.batch_size,
            settings.seq_len,
            context.settings.optimizer.kind,
            free_bytes(context.device),
            context.pool.size,
        )
        model = Decoder(shape).initialize(outputs="zero")  # drawn on the CPU: all devices begin alike
        if settings.resolved_first_weights == "induction":
            give_induction(model)
        context.progress.say(f"first weights: {settings.resolved_first_weights}")
        return PretrainTask(settings, context, tokenizer, corpus, model.to(context.device))


class PretrainTask:
    """A decoder and the text that it is taught."""

    def __init__(
        self,
        settings: PretrainSettings,
        context: RunContext,
        tokenizer: Tokenizer,
        corpus: Corpus,
        model: Decoder,
    ) -> None:
        self.settings, self.context, self.tokenizer = settings, context, tokenizer
        self.corpus, self.model = corpus, model
        self.num_evaluations = settings.evaluation.times
        self.digests = {"corpus": corpus.digest, "tokenizer": tokenizer.digest}
        self.split = corpus.describe_split()
        group, seed = context.group, context.settings.seed
        self._loader = Loader(
            corpus.train,
            settings.batch_size,
            settings.seq_len,
            seed,
            rank=group.rank,
            world_size=group.size,
        )

    def batch(self, step: int) -> Batch:
        return self._loader.batch(step)

    def loss(self, batch: Batch, scale: float) -> Tensor:
        return next_token_loss(self.model, batch, scale)

    def flops(self, num_units: int) -> int:
        return training_flops(self.model.shape, num_units, self.settings.seq_len)

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes.of(self.tokenizer)

    def evaluate(self, kind: EvaluationKind) -> Evaluated:
        """Held-out bits per byte, and continuations of the prompts."""
        settings, seed, precision = (
            self.settings.evaluation,
            self.context.settings.seed,
            self.context.precision,
        )
        window, heldout = self.settings.seq_len, self.corpus.heldout
        stride = max(1, window // 2)
        scores = score_documents(
            self.model,
            [heldout.document(index) for index in range(heldout.info.num_documents)],
            self._token_bytes,
            window=window,
            stride=stride,
            precision=precision,
            max_bytes=settings.probe_bytes if kind == "interim" else settings.final_bytes,
            pool=self.context.pool,
        )
        samples = tuple(
            write_sample(
                self.model,
                self.tokenizer,
                prompt,
                num_tokens=settings.sample_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=seed + index,
                precision=precision,
            )
            for index, prompt in enumerate(settings.sample_prompts if settings.sample_tokens else ())
        )
        method = window_method(window, stride, str(precision.dtype).removeprefix("torch."))
        score = bits_per_byte(scores, HELDOUT_TASK, method)
        return Evaluated(replace(score, data_digest=self.corpus.digest), samples)

    def lineage(self) -> Lineage:
        return Lineage(
            corpus_digest=self.corpus.digest,
            tokenizer_digest=self.tokenizer.digest,
            first_weights=self.settings.resolved_first_weights,
        )

    def write(self, folder: Path, manifest: Mapping[str, Any]) -> Path:
        """A Hugging Face folder."""
        shape = self.model.shape
        return save_model(folder, self.model, shape, self.tokenizer, manifest, dtype=self.settings.save_as)


def next_token_loss(model: Decoder, batch: Batch, scale: float) -> Tensor:
    """Summed nats over the targets of one batch, multiplied by `scale`."""
    device = model.embedding.weight.device
    is_plain = batch.segments is None
    positions = batch.positions[:1] if is_plain else batch.positions  # equal rows: angles are made once
    segments = None if is_plain or batch.segments is None else batch.segments.to(device)
    hidden = model(batch.token_ids.to(device), training_context(positions.to(device), segments))
    return linear_cross_entropy(hidden, model.head_weight, batch.targets.to(device), scale)
