"""Settings of pretraining. Frozen, documented by field, no torch: the command line is derived from them.

Sizes that are left out follow from the budget, the text and the machine (`recipes/pretrain_sizes`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tuition.data.settings import DataSettings
from tuition.train.settings import check_numbers, wants

MOST_VOCABULARY = 2**20
"""Tokens: more than any tokenizer in use has; its trainer reserves memory for all of them at once."""


@dataclass(frozen=True)
class ShapeSettings:
    """Size of the model that is taught; what is left out follows from the budget, the text and the machine.
    The vocabulary comes from the tokenizer."""

    hidden_size: int | None = None
    """Width of the residual stream."""
    num_layers: int | None = None
    """Transformer layers."""
    num_heads: int | None = None
    """Query heads; hidden_size / num_heads is the size of a head and must be even."""
    num_kv_heads: int | None = None
    """Key and value heads; divides num_heads. Fewer of them make the cache smaller when the model is used.
    Default: num_heads."""
    mlp_size: int | None = None
    """Width inside the feed-forward block. Default: three times hidden_size."""
    context_length: int | None = None
    """Most tokens of one sequence in the finished model. Default: seq_len."""
    tied_head: bool = True
    """Use the embedding as output head."""
    qk_norm: bool = True
    """Normalise every query and key head (family Qwen3; without it, Llama). Training is more stable and
    faster."""

    def __post_init__(self) -> None:
        check_numbers(self, "shape.")
        names = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "mlp_size", "context_length")
        for name in names:
            value = getattr(self, name)
            wants(value is None or value >= 1, f"shape.{name}", value, "1 or more")
        if self.hidden_size is not None:
            heads = self.num_heads or 1
            multiple = f"a multiple of 2 x num_heads ({2 * heads})" if self.num_heads else "an even number"
            wants(self.hidden_size % (2 * heads) == 0, "shape.hidden_size", self.hidden_size, multiple)
        if self.num_heads is not None and self.num_kv_heads is not None:
            wants(
                self.num_heads % self.num_kv_heads == 0,
                "shape.num_kv_heads",
                self.num_kv_heads,
                f"a divisor of num_heads ({self.num_heads})",
            )


@dataclass(frozen=True)
class EvaluationSettings:
    """How often a run is evaluated, and on how much of the held-out text."""

    times: int | None = None
    """Evaluations spread evenly over the run, the last at its end; 0: only at the end. Default: so many
    that nearly all of a budget is used for training; 4 in a run by steps."""
    probe_bytes: int | None = None
    """Held-out bytes scored each time before the end. Default: chosen with times."""
    final_bytes: int | None = None
    """Held-out bytes scored at the end. Default: about as many as a fifth of a budget allows; all of them in
    a run by steps."""
    sample_tokens: int = 80
    """Tokens in each sample that is shown; 0: no samples."""
    sample_prompts: tuple[str, ...] = ("",)
    """Prompts of the samples; an empty one is the start of a document."""
    temperature: float = 0.8
    """Temperature of the samples: 0 takes the most likely token, 1 draws from the model's distribution."""
    top_p: float = 0.95
    """Samples draw only from the most likely tokens that together have this probability."""

    def __post_init__(self) -> None:
        check_numbers(self, "evaluation.")
        wants(self.times is None or self.times >= 0, "evaluation.times", self.times, "0 or more")
        for name in ("probe_bytes", "final_bytes"):
            value = getattr(self, name)
            wants(value is None or value >= 1, f"evaluation.{name}", value, "1 or more")
        wants(self.sample_tokens >= 0, "evaluation.sample_tokens", self.sample_tokens, "0 or more")
        wants(0 < self.top_p <= 1, "evaluation.top_p", self.top_p, "more than 0, at most 1")
        wants(self.temperature >= 0, "evaluation.temperature", self.temperature, "0 or more")


@dataclass(frozen=True)
class PretrainSettings:
    """A decoder taught from text, from its first weights on."""

    data: DataSettings = field(default_factory=DataSettings)
    """What is taught."""
    tokenizer: Path | None = None
    """A folder or tokenizer.json to use. Default: one is trained on the training text."""
    vocab_size: int | None = None
    """Tokens in the vocabulary of a tokenizer that is trained here. Default: chosen with the shape."""
    shape: ShapeSettings = field(default_factory=ShapeSettings)
    """Size of the model."""
    first_weights: Literal["auto", "random", "induction"] = "auto"
    """induction: the first two layers begin with heads that find what followed a token earlier in the text
    (short runs do not learn this); the rest is random. auto: induction if the shape has room."""
    batch_size: int | None = None
    """Rows in one forward pass. Default: chosen with the shape."""
    seq_len: int | None = None
    """Tokens in one row. Default: chosen with the shape."""
    save_as: Literal["float32", "bfloat16"] = "float32"
    """Number format of the saved model; float32 is exactly what was evaluated."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How often and on how much text the run is evaluated."""

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("batch_size", "seq_len"):
            value = getattr(self, name)
            wants(value is None or value >= 1, name, value, "1 or more")
        wants(
            self.vocab_size is None or 257 <= self.vocab_size <= MOST_VOCABULARY,
            "vocab_size",
            self.vocab_size,
            f"257 (256 bytes and an end mark) to {MOST_VOCABULARY:,}",
        )
        context = self.shape.context_length
        wants(
            context is None or self.seq_len is None or self.seq_len <= context,
            "seq_len",
            self.seq_len,
            f"at most shape.context_length ({context})",
        )
