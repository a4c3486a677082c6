"""Pretraining: predict the next token of plain text, from fresh weights.

In: settings, a prepared corpus, a shape.  Out: what `train.loop.fit` needs: state, batches, loss.
"""

import torch
from torch import Tensor

from tuition.data.corpus import Corpus
from tuition.data.loader import Batch, Loader
from tuition.model.decoder import Decoder
from tuition.model.induction import give_induction
from tuition.runtime.device import choose_device, choose_precision
from tuition.runtime.seed import seed_all
from tuition.runtime.thread_pool import ThreadPool
from tuition.spec.shape import ModelShape
from tuition.train.attention import training_context
from tuition.train.losses import linear_cross_entropy
from tuition.train.settings import TrainSettings
from tuition.train.state import TrainState

NAME = "pretrain"


def build(settings: TrainSettings, corpus: Corpus, shape: ModelShape) -> tuple[TrainState, Loader]:
    """A model with fresh weights and the batches it is taught with; both follow from the seed.

    Raises: SettingsError, DataError.
    """
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    seed_all(settings.seed)
    model = Decoder(shape).initialize(outputs="zero")  # drawn on the CPU: all devices begin alike
    if settings.resolved_first_weights == "induction":
        give_induction(model)
    model = model.to(device)
    loader = Loader(corpus.train, settings.batch_size, settings.seq_len, settings.seed)
    pool = ThreadPool.for_rows(settings.batch_size, torch.get_num_threads(), device)
    return TrainState.fresh(model, settings, device, precision, pool), loader


def next_token_loss(model: Decoder, batch: Batch, scale: float) -> Tensor:
    """Sum of nats over the targets of one batch, times `scale`."""
    device = model.embedding.weight.device
    is_plain = batch.segments is None
    positions = batch.positions[:1] if is_plain else batch.positions  # equal rows: angles are made once
    segments = None if is_plain or batch.segments is None else batch.segments.to(device)
    hidden = model(batch.token_ids.to(device), training_context(positions.to(device), segments))
    return linear_cross_entropy(hidden, model.head_weight, batch.targets.to(device), scale)
