"""Settings of pretraining. Frozen, documented by field, no torch: the command line is derived from them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tuition.data.settings import DataSettings
from tuition.spec.shape import ModelShape, RopeShape, lacks_for_induction
from tuition.train.settings import check_numbers, wants

MOST_VOCABULARY = 2**20
"""Tokens: more than any tokenizer in use has; its trainer reserves memory for all of them at once."""


@dataclass(frozen=True)
class ShapeSettings:
    """Size of the model that is taught. The vocabulary comes from the tokenizer."""

    hidden_size: int = 256
    """Width of the residual stream."""
    num_layers: int = 4
    """Transformer layers."""
    num_heads: int = 4
    """Query heads; hidden_size / num_heads is the size of a head and must be even."""
    num_kv_heads: int = 4
    """Key and value heads; divides num_heads. Fewer of them make the cache smaller when the model is used."""
    mlp_size: int = 768
    """Width inside the feed-forward block."""
    context_length: int | None = None
    """Most tokens the finished model takes in one sequence. Left out: seq_len, what it was taught with."""
    tied_head: bool = True
    """Use the embedding as output head."""
    qk_norm: bool = True
    """Scale every query and key head to one length before they meet (a model of the family Qwen3; without it,
    Llama): steadier, and taught faster."""

    def __post_init__(self) -> None:
        check_numbers(self, "shape.")
        for name in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "mlp_size"):
            wants(getattr(self, name) >= 1, f"shape.{name}", getattr(self, name), "1 or more")
        wants(
            self.context_length is None or self.context_length >= 1,
            "shape.context_length",
            self.context_length,
            "1 or more",
        )
        wants(
            self.hidden_size % (2 * self.num_heads) == 0,
            "shape.hidden_size",
            self.hidden_size,
            f"a multiple of 2 x num_heads ({2 * self.num_heads})",
        )
        wants(
            self.num_heads % self.num_kv_heads == 0,
            "shape.num_kv_heads",
            self.num_kv_heads,
            f"a divisor of num_heads ({self.num_heads})",
        )

    def model_shape(self, vocab_size: int, seq_len: int) -> ModelShape:
        """The full shape with this vocabulary, taught with rows of `seq_len`. Raises: ShapeError."""
        return ModelShape(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.hidden_size // self.num_heads,
            mlp_size=self.mlp_size,
            context_length=self.context_length or seq_len,
            tied_head=self.tied_head,
            qk_norm=self.qk_norm,
            rope=RopeShape(),
        )


@dataclass(frozen=True)
class EvaluationSettings:
    """How often a run is evaluated, and on how much of the held-out text."""

    times: int = 4
    """Evaluations spread evenly over the run, the last at its end; 0: only at the end."""
    probe_bytes: int = 32_768
    """Held-out bytes scored each time before the end."""
    final_bytes: int | None = None
    """Held-out bytes scored at the end; left out: all of them."""
    sample_tokens: int = 80
    """Tokens in each sample that is shown; 0: no samples."""
    sample_prompts: tuple[str, ...] = ("",)
    """Beginnings of the samples; an empty one is the start of a document."""
    temperature: float = 0.8
    """Of the samples: 0 takes the likeliest token, 1 draws from the model's own distribution."""
    top_p: float = 0.95
    """Of the samples: draw only from the likeliest tokens that together have this probability."""

    def __post_init__(self) -> None:
        check_numbers(self, "evaluation.")
        wants(self.times >= 0, "evaluation.times", self.times, "0 or more")
        wants(self.probe_bytes >= 1, "evaluation.probe_bytes", self.probe_bytes, "1 or more")
        wants(
            self.final_bytes is None or self.final_bytes >= 1,
            "evaluation.final_bytes",
            self.final_bytes,
            "1 or more",
        )
        wants(self.sample_tokens >= 0, "evaluation.sample_tokens", self.sample_tokens, "0 or more")
        wants(0 < self.top_p <= 1, "evaluation.top_p", self.top_p, "more than 0, at most 1")
        wants(self.temperature >= 0, "evaluation.temperature", self.temperature, "0 or more")


@dataclass(frozen=True)
class PretrainSettings:
    """A decoder taught from text, from its first weights on."""

    data: DataSettings = field(default_factory=DataSettings)
    """What is taught."""
    tokenizer: Path | None = None
    """A folder or tokenizer.json to use; left out: one is trained on the training text."""
    vocab_size: int = 4_096
    """Tokens in the vocabulary of a tokenizer that is trained here."""
    shape: ShapeSettings = field(default_factory=ShapeSettings)
    """Size of the model."""
    first_weights: Literal["auto", "random", "induction"] = "auto"
    """induction: the first two layers begin with heads that find what followed a token earlier in the text
    (which a short run does not learn by itself); the rest is random. auto: so where the shape has room."""
    batch_size: int = 16
    """Rows in one forward pass."""
    seq_len: int = 256
    """Tokens in one row."""
    save_as: Literal["float32", "bfloat16"] = "float32"
    """Number format of the saved model; float32 is exactly what was evaluated."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How often and on how much text the run is evaluated."""

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("batch_size", "seq_len"):
            wants(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        wants(
            257 <= self.vocab_size <= MOST_VOCABULARY,
            "vocab_size",
            self.vocab_size,
            f"257 (256 bytes and an end mark) to {MOST_VOCABULARY:,}",
        )
        wants(
            self.shape.context_length is None or self.seq_len <= self.shape.context_length,
            "seq_len",
            self.seq_len,
            f"at most shape.context_length ({self.shape.context_length})",
        )
        if self.first_weights == "induction":
            lack = self._lack()
            wants(lack is None, "first_weights", self.first_weights, f"random, or a shape with {lack}")

    @property
    def resolved_first_weights(self) -> Literal["random", "induction"]:
        """What `auto` comes to with this shape."""
        return "random" if self.first_weights == "random" or self._lack() is not None else "induction"

    def _lack(self) -> str | None:
        return lacks_for_induction(self.shape.model_shape(self.vocab_size, self.seq_len))
