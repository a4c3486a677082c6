"""All sizes of a pretraining run; those that the settings leave open are filled in.

In: settings and a `ModelSize` of plan/shape.  Out: `Sizes`. No torch.
"""

from dataclasses import dataclass
from typing import Literal

from tuition.plan.shape import STANDARD, EvaluationPlan, ModelSize
from tuition.spec.shape import ModelShape, RopeShape, lacks_for_induction
from tuition.train.recipes.pretrain_settings import EvaluationSettings, PretrainSettings, ShapeSettings
from tuition.train.settings import wants


@dataclass(frozen=True)
class Sizes:
    """All sizes, as integers."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    context_length: int
    vocab_size: int
    batch_size: int
    seq_len: int

    def model_shape(self, settings: ShapeSettings, vocab_size: int) -> ModelShape:
        """The shape with the vocabulary that the tokenizer came to have. Raises: ShapeError."""
        return ModelShape(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.hidden_size // self.num_heads,
            mlp_size=self.mlp_size,
            context_length=self.context_length,
            tied_head=settings.tied_head,
            qk_norm=settings.qk_norm,
            rope=RopeShape(),
        )

    def describe(self) -> str:
        """The sizes in one line, for people."""
        shape = f"{self.num_layers} layers, {self.hidden_size} wide, {self.num_heads} heads"
        return (
            f"{shape}, vocabulary {self.vocab_size:,}, batches of {self.batch_size} x {self.seq_len} tokens"
        )


def is_open(settings: PretrainSettings) -> bool:
    """Whether a size that makes a difference to the model is left out."""
    shape = settings.shape
    named = (shape.hidden_size, shape.num_layers, shape.num_heads, settings.batch_size, settings.seq_len)
    return None in named or (settings.vocab_size is None and settings.tokenizer is None)


def complete(settings: PretrainSettings, size: ModelSize = STANDARD) -> Sizes:
    """The sizes that are set, and `size` for the others. Raises: SettingsError when the set sizes do not fit
    together."""
    shape = settings.shape
    heads, hidden_size = _heads(shape, size)
    context = shape.context_length
    seq_len = settings.seq_len or min(size.seq_len, context or size.seq_len)
    return Sizes(
        hidden_size=hidden_size,
        num_layers=shape.num_layers or size.num_layers,
        num_heads=heads,
        num_kv_heads=shape.num_kv_heads or heads,
        mlp_size=shape.mlp_size or 3 * hidden_size,
        context_length=context or seq_len,
        vocab_size=settings.vocab_size or size.vocab_size,
        batch_size=settings.batch_size or size.batch_size,
        seq_len=seq_len,
    )


def _heads(shape: ShapeSettings, size: ModelSize) -> tuple[int, int]:
    """Number of heads and width: heads of about the size's own length, a multiple of the key heads."""
    step = shape.num_kv_heads or 1
    if shape.num_heads is not None:
        return shape.num_heads, shape.hidden_size or shape.num_heads * size.head_dim
    if shape.hidden_size is None:
        heads = -(-size.hidden_size // size.head_dim // step) * step
        return heads, heads * size.head_dim
    most = max(step, shape.hidden_size // size.head_dim)
    fits = [heads for heads in range(step, most + 1, step) if shape.hidden_size % (2 * heads) == 0]
    multiple = f"a multiple of 2 x num_kv_heads ({2 * step})"
    wants(bool(fits), "shape.hidden_size", shape.hidden_size, multiple)
    return fits[-1], shape.hidden_size


def evaluations(settings: EvaluationSettings, plan: EvaluationPlan) -> EvaluationPlan:
    """The evaluation settings that are set, and the plan for the others."""
    return EvaluationPlan(
        times=plan.times if settings.times is None else settings.times,
        probe_bytes=settings.probe_bytes or plan.probe_bytes,
        final_bytes=settings.final_bytes or plan.final_bytes,
    )


def first_weights(settings: PretrainSettings, shape: ModelShape) -> Literal["random", "induction"]:
    """What `auto` means for this shape. Raises: SettingsError for induction where it has no room."""
    lack = lacks_for_induction(shape)
    if settings.first_weights == "induction":
        wants(lack is None, "first_weights", settings.first_weights, f"random, or a shape with {lack}")
    return "random" if settings.first_weights == "random" or lack is not None else "induction"
