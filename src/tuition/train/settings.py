"""Everything that fixes a training run. Frozen, documented by field, no torch: the command line is derived
from it."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tuition.core.errors import SettingsError
from tuition.core.units import parse_duration_s
from tuition.data.settings import DataSettings
from tuition.spec.shape import ModelShape, RopeShape, lacks_for_induction


def _wants(condition: bool, name: str, got: object, wanted: str) -> None:
    if not condition:
        raise SettingsError(name, got=got, wanted=wanted)


MOST = 2**31 - 1
"""No size or count of a run may be larger: beyond it numbers no longer fit where they are kept."""
MOST_THREADS = 1_024
MOST_VOCABULARY = 2**20
"""Tokens: more than any tokenizer in use has; its trainer reserves memory for all of them at once."""
MOST_ACCUMULATION = 2**16
"""Batches of one optimizer step, which are held together."""


def _check_numbers(settings: Any, prefix: str = "") -> None:
    """Every number finite, and none too large to be counted. Raises: SettingsError."""
    for part in dataclasses.fields(settings):
        value, name = getattr(settings, part.name), prefix + part.name
        if isinstance(value, float):
            _wants(math.isfinite(value), name, value, "a finite number")
        elif isinstance(value, int):
            _wants(abs(value) <= MOST, name, value, f"at most {MOST:,}")


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
        _check_numbers(self, "shape.")
        for name in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "mlp_size"):
            _wants(getattr(self, name) >= 1, f"shape.{name}", getattr(self, name), "1 or more")
        _wants(
            self.context_length is None or self.context_length >= 1,
            "shape.context_length",
            self.context_length,
            "1 or more",
        )
        _wants(
            self.hidden_size % (2 * self.num_heads) == 0,
            "shape.hidden_size",
            self.hidden_size,
            f"a multiple of 2 x num_heads ({2 * self.num_heads})",
        )
        _wants(
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
class OptimizerSettings:
    """How gradients change the weights."""

    kind: Literal["adamw", "muon"] = "muon"
    """adamw for everything, or muon for the matrices inside the layers and adamw for the rest."""
    lr: float = 4e-3
    """Peak learning rate of AdamW."""
    muon_lr: float = 1e-2
    """Peak learning rate of Muon."""
    beta1: float = 0.9
    """AdamW: memory of the gradient's mean."""
    beta2: float = 0.95
    """AdamW: memory of the gradient's square."""
    epsilon: float = 1e-8
    """AdamW: added to the root of the square."""
    weight_decay: float = 0.05
    """Share of a weight that is taken away per step and unit of learning rate; norms and embedding are left
    out."""
    muon_momentum: float = 0.95
    """Muon: memory of the gradient's mean."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm over all parameters."""

    def __post_init__(self) -> None:
        _check_numbers(self, "optimizer.")
        for name in ("lr", "muon_lr", "epsilon", "max_grad_norm"):
            _wants(getattr(self, name) > 0, f"optimizer.{name}", getattr(self, name), "more than 0")
        for name in ("beta1", "beta2", "muon_momentum"):
            _wants(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "0 to less than 1")
        _wants(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")


@dataclass(frozen=True)
class ScheduleSettings:
    """Learning rate over the run, in shares of it: linear warmup, level, linear decay."""

    warmup: float = 0.03
    """Share of the run in which the learning rate rises, 0 to 1."""
    decay: float = 0.9
    """Share of the run, at its end, in which the learning rate falls, 0 to 1."""
    final: float = 0.0
    """Learning rate at the end, as a share of the peak."""
    floor: float = 1e-2
    """Lowest share of the peak during warmup, so that the first step teaches something."""

    def __post_init__(self) -> None:
        _check_numbers(self, "schedule.")
        for name in ("warmup", "decay", "final", "floor"):
            _wants(0 <= getattr(self, name) <= 1, f"schedule.{name}", getattr(self, name), "0 to 1")
        _wants(
            self.warmup + self.decay <= 1.0 + 1e-9,
            "schedule.decay",
            self.decay,
            f"at most 1 - warmup ({1 - self.warmup:g})",
        )


@dataclass(frozen=True)
class CheckpointSettings:
    """How much of a run a crash may cost."""

    every: str = "1min"
    """Wall time between checkpoints, with its unit; used when every_steps is not given."""
    every_steps: int | None = None
    """Optimizer steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept; the last one that is whole is never removed."""

    def __post_init__(self) -> None:
        _check_numbers(self, "checkpoints.")
        parse_duration_s(self.every, "checkpoints.every")
        _wants(
            self.every_steps is None or self.every_steps >= 1,
            "checkpoints.every_steps",
            self.every_steps,
            "1 or more",
        )
        _wants(self.keep >= 1, "checkpoints.keep", self.keep, "1 or more")

    @property
    def every_s(self) -> float:
        return parse_duration_s(self.every, "checkpoints.every")


@dataclass(frozen=True)
class EvaluationSettings:
    """How often, and on how much of the held-out text, a run looks at itself."""

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
        _check_numbers(self, "evaluation.")
        _wants(self.times >= 0, "evaluation.times", self.times, "0 or more")
        _wants(self.probe_bytes >= 1, "evaluation.probe_bytes", self.probe_bytes, "1 or more")
        _wants(
            self.final_bytes is None or self.final_bytes >= 1,
            "evaluation.final_bytes",
            self.final_bytes,
            "1 or more",
        )
        _wants(self.sample_tokens >= 0, "evaluation.sample_tokens", self.sample_tokens, "0 or more")
        _wants(0 < self.top_p <= 1, "evaluation.top_p", self.top_p, "more than 0, at most 1")
        _wants(self.temperature >= 0, "evaluation.temperature", self.temperature, "0 or more")


@dataclass(frozen=True)
class GuardSettings:
    """When a step is too strange to be taken."""

    gradient_factor: float = 20.0
    """A gradient norm this many times the recent median is a spike."""
    loss_rise: float = 2.0
    """A loss this many nats above the recent median is a spike."""
    history: int = 64
    """Good steps remembered; spikes are looked for once a quarter of them are there."""
    most_skipped: int = 3
    """The run stops with an error at this many skipped steps within `window`."""
    window: int = 100
    """Optimizer steps in which skipped ones are counted together."""

    def __post_init__(self) -> None:
        _check_numbers(self, "guard.")
        for name in ("gradient_factor", "loss_rise"):
            _wants(getattr(self, name) > 0, f"guard.{name}", getattr(self, name), "more than 0")
        for name in ("history", "most_skipped", "window"):
            _wants(getattr(self, name) >= 1, f"guard.{name}", getattr(self, name), "1 or more")


@dataclass(frozen=True)
class TrainSettings:
    """One training run, from text to a model folder."""

    name: str = "model"
    """Name of the model in the registry: letters a-z, digits, dot, dash, underscore."""
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
    budget: str | None = None
    """Wall time of the training loop with its unit, like 4min: steps, evaluations and checkpoints; preparing
    the text, the last evaluation and saving come on top. Give this or steps."""
    steps: int | None = None
    """Exact number of optimizer steps instead of a budget; repeatable bit for bit at equal threads."""
    batch_size: int = 16
    """Rows in one forward pass."""
    seq_len: int = 256
    """Tokens in one row."""
    accumulation: int = 1
    """Forward passes per optimizer step."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """How gradients change the weights."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """Learning rate over the run."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; weights and optimizer stay float32. auto: bfloat16 where the machine is fast at
    it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes cuda, then mps, then cpu."""
    threads: int | None = None
    """CPU threads; left out: one per core this process may use."""
    seed: int = 0
    """Of the weights' first values, the order of the text and the samples."""
    save_as: Literal["float32", "bfloat16"] = "float32"
    """Number format of the saved model; float32 is exactly what was evaluated."""
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    """How much of the run a crash may cost."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How the run looks at itself."""
    guard: GuardSettings = field(default_factory=GuardSettings)
    """When a step is too strange to be taken."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        for name in ("vocab_size", "batch_size", "seq_len", "accumulation"):
            _wants(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _wants(
            self.vocab_size >= 257, "vocab_size", self.vocab_size, "257 or more (256 bytes and an end mark)"
        )
        for name, most in (("vocab_size", MOST_VOCABULARY), ("accumulation", MOST_ACCUMULATION)):
            _wants(getattr(self, name) <= most, name, getattr(self, name), f"at most {most:,}")
        _wants(self.steps is None or self.steps >= 1, "steps", self.steps, "1 or more")
        _wants(
            self.threads is None or 1 <= self.threads <= MOST_THREADS,
            "threads",
            self.threads,
            f"1 to {MOST_THREADS:,}",
        )
        _wants(
            self.shape.context_length is None or self.seq_len <= self.shape.context_length,
            "seq_len",
            self.seq_len,
            f"at most shape.context_length ({self.shape.context_length})",
        )
        if self.first_weights == "induction":
            lack = self._lack()
            _wants(lack is None, "first_weights", self.first_weights, f"random, or a shape with {lack}")
        if self.budget is not None:
            parse_duration_s(self.budget, "budget")
            _wants(self.steps is None, "budget", self.budget, f"budget or steps ({self.steps}), not both")

    @property
    def resolved_first_weights(self) -> Literal["random", "induction"]:
        """What `auto` comes to with this shape."""
        return "random" if self.first_weights == "random" or self._lack() is not None else "induction"

    def _lack(self) -> str | None:
        return lacks_for_induction(self.shape.model_shape(self.vocab_size, self.seq_len))

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, at most: some may not be taught."""
        return self.batch_size * self.seq_len * self.accumulation

    @property
    def budget_s(self) -> float | None:
        """Seconds of the budget, None for a run by steps."""
        return None if self.budget is None else parse_duration_s(self.budget, "budget")
