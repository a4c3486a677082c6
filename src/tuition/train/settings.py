"""Settings of the training loop. Frozen, documented by field, no torch: the command line is derived from
them. What a recipe needs beside them is in its own settings (`recipes/`)."""

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from tuition.core.errors import SettingsError
from tuition.core.units import parse_duration_s


def wants(condition: bool, name: str, got: object, wanted: str) -> None:
    """Raises: SettingsError unless the condition holds."""
    if not condition:
        raise SettingsError(name, got=got, wanted=wanted)


MOST = 2**31 - 1
"""Upper limit of all sizes and counts; larger numbers overflow where they are stored."""
MOST_THREADS = 1_024
MOST_ACCUMULATION = 2**16
"""Batches of one optimizer step, which are held together."""


def check_numbers(settings: Any, prefix: str = "") -> None:
    """Every number finite, and none too large to be counted. Raises: SettingsError."""
    for part in dataclasses.fields(settings):
        value, name = getattr(settings, part.name), prefix + part.name
        if isinstance(value, float):
            wants(math.isfinite(value), name, value, "a finite number")
        elif isinstance(value, int):
            wants(abs(value) <= MOST, name, value, f"at most {MOST:,}")


@dataclass(frozen=True)
class OptimizerSettings:
    """How gradients change the weights. What is left out is chosen by the recipe: fine-tuning needs a far
    lower learning rate than fresh weights."""

    kind: Literal["adamw", "muon"] | None = None
    """adamw for everything, or muon for the matrices inside the layers and adamw for the rest. Default: muon
    for pretraining, adamw for fine-tuning."""
    lr: float | None = None
    """Peak learning rate of AdamW. Default: chosen by the recipe, and printed."""
    muon_lr: float | None = None
    """Peak learning rate of Muon. Default: chosen by the recipe."""
    beta1: float = 0.9
    """AdamW: decay rate of the gradient's mean."""
    beta2: float = 0.95
    """AdamW: decay rate of the gradient's square."""
    epsilon: float = 1e-8
    """AdamW: added to the denominator."""
    weight_decay: float | None = None
    """Share of a weight subtracted per step and unit of learning rate; not for norms and embedding. Default:
    chosen by the recipe."""
    muon_momentum: float = 0.95
    """Muon: decay rate of the gradient's mean."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm over all parameters."""

    def __post_init__(self) -> None:
        check_numbers(self, "optimizer.")
        for name in ("lr", "muon_lr", "epsilon", "max_grad_norm"):
            value = getattr(self, name)
            wants(value is None or value > 0, f"optimizer.{name}", value, "more than 0")
        for name in ("beta1", "beta2", "muon_momentum"):
            wants(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "0 to less than 1")
        decay = self.weight_decay
        wants(decay is None or decay >= 0, "optimizer.weight_decay", decay, "0 or more")

    def filled(self, defaults: "OptimizerSettings") -> "OptimizerSettings":
        """The settings that are given, and `defaults` for those that are left out."""
        return replace(defaults, **{name: value for name, value in vars(self).items() if value is not None})


class Rates(NamedTuple):
    """Learning rates and weight decay, none left out."""

    lr: float
    muon_lr: float
    weight_decay: float


PRETRAINING = OptimizerSettings(kind="muon", lr=4e-3, muon_lr=1e-2, weight_decay=0.05)
"""For first weights; also where a program makes an optimizer without a recipe."""


def rates_of(settings: OptimizerSettings) -> Rates:
    """The rates that are given, those of `PRETRAINING` for the others."""
    known = settings.filled(PRETRAINING)
    return Rates(known.lr or 0.0, known.muon_lr or 0.0, known.weight_decay or 0.0)


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
    """Lowest share of the peak during warmup, so that the first step has an effect."""

    def __post_init__(self) -> None:
        check_numbers(self, "schedule.")
        for name in ("warmup", "decay", "final", "floor"):
            wants(0 <= getattr(self, name) <= 1, f"schedule.{name}", getattr(self, name), "0 to 1")
        wants(
            self.warmup + self.decay <= 1.0 + 1e-9,
            "schedule.decay",
            self.decay,
            f"at most 1 - warmup ({1 - self.warmup:g})",
        )


@dataclass(frozen=True)
class CheckpointSettings:
    """How often checkpoints are saved: how much work a crash can lose."""

    every: str = "1min"
    """Wall time between checkpoints, with its unit; longer where saving one takes more than a twentieth of
    it. Used when every_steps is not given."""
    every_steps: int | None = None
    """Optimizer steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept; the last one that is whole is never removed."""

    def __post_init__(self) -> None:
        check_numbers(self, "checkpoints.")
        parse_duration_s(self.every, "checkpoints.every")
        wants(
            self.every_steps is None or self.every_steps >= 1,
            "checkpoints.every_steps",
            self.every_steps,
            "1 or more",
        )
        wants(self.keep >= 1, "checkpoints.keep", self.keep, "1 or more")

    @property
    def every_s(self) -> float:
        return parse_duration_s(self.every, "checkpoints.every")


@dataclass(frozen=True)
class GuardSettings:
    """When to skip an optimizer step."""

    gradient_factor: float = 20.0
    """A gradient norm this many times the recent median is a spike."""
    gradient_floor: float = 1.0
    """A smaller median counts as this. When nearly every batch is learnt, norms are near 0, and a batch with
    one example that is not learnt has many times the median; max_grad_norm limits what it changes."""
    loss_rise: float = 2.0
    """A loss this many nats above the recent median is a spike."""
    history: int = 64
    """Good steps in the history; spikes are detected when it is a quarter full."""
    most_skipped: int = 3
    """The run stops with an error at this many skipped steps within `window`."""
    window: int = 100
    """Optimizer steps in which skipped ones are counted together."""

    def __post_init__(self) -> None:
        check_numbers(self, "guard.")
        for name in ("gradient_factor", "loss_rise"):
            wants(getattr(self, name) > 0, f"guard.{name}", getattr(self, name), "more than 0")
        wants(self.gradient_floor >= 0, "guard.gradient_floor", self.gradient_floor, "0 or more")
        for name in ("history", "most_skipped", "window"):
            wants(getattr(self, name) >= 1, f"guard.{name}", getattr(self, name), "1 or more")


@dataclass(frozen=True)
class TrainSettings:
    """How long and how a run trains, whatever it trains: the recipe's own settings stand beside these."""

    name: str = "model"
    """Name of the model in the registry: letters a-z, digits, dot, dash, underscore."""
    budget: str | None = None
    """Wall time of the training loop with its unit, like 4min: steps, evaluations and checkpoints; preparing
    data, the last evaluation and saving are not included. Give this, steps or epochs."""
    steps: int | None = None
    """Exact number of optimizer steps instead of a budget; repeatable bit for bit with equal threads."""
    epochs: float | None = None
    """Passes over the data instead of a budget: as many steps as these take; repeatable like steps."""
    accumulation: int = 1
    """Forward passes per optimizer step."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """How gradients change the weights."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """Learning rate over the run."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of matrix products; weights and optimizer stay float32. auto: bfloat16 if it is fast."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes cuda, then mps, then cpu."""
    threads: int | None = None
    """CPU threads. Default: one per core this process may use."""
    seed: int = 0
    """Seed of the first weights, the order of the data and the samples."""
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    """How often checkpoints are saved: how much work a crash can lose."""
    guard: GuardSettings = field(default_factory=GuardSettings)
    """When to skip an optimizer step."""

    def __post_init__(self) -> None:
        check_numbers(self)
        wants(
            1 <= self.accumulation <= MOST_ACCUMULATION,
            "accumulation",
            self.accumulation,
            f"1 to {MOST_ACCUMULATION:,}",
        )
        wants(self.steps is None or self.steps >= 1, "steps", self.steps, "1 or more")
        wants(
            self.threads is None or 1 <= self.threads <= MOST_THREADS,
            "threads",
            self.threads,
            f"1 to {MOST_THREADS:,}",
        )
        wanted = f"more than 0, at most {MOST:,}"
        wants(self.epochs is None or 0 < self.epochs <= MOST, "epochs", self.epochs, wanted)
        lengths = {name: getattr(self, name) for name in ("budget", "steps", "epochs")}
        given = {name: value for name, value in lengths.items() if value is not None}
        both = " and ".join(f"--{name} {value}" for name, value in given.items())
        wants(len(given) <= 1, min(given, default=""), both, "one of --budget, --steps and --epochs")
        if self.budget is not None:
            parse_duration_s(self.budget, "budget")

    def require_length(self) -> None:
        """Raises: SettingsError where nothing says how long to train."""
        is_given = (self.budget, self.steps, self.epochs) != (None, None, None)
        wants(is_given, "budget", None, "a budget like 4min, or a number of --steps or --epochs")

    @property
    def budget_s(self) -> float | None:
        """Seconds of the budget, None for a run by steps."""
        return None if self.budget is None else parse_duration_s(self.budget, "budget")
