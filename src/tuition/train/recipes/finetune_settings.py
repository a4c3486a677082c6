"""Settings of fine-tuning. Frozen, documented by field, no torch: the command line is derived from them."""

from dataclasses import dataclass, field

from tuition.data.settings import ExampleSettings
from tuition.train.recipes.base_settings import BaseSettings
from tuition.train.settings import check_numbers, wants

MOST_LONGEST = 2_048
"""Tokens of an example if nothing else is set: attention is computed over all of them at once."""


@dataclass(frozen=True)
class FinetuneEvaluation:
    """How often a run is evaluated, and on how many held-out examples."""

    times: int = 4
    """Evaluations spread evenly over the run, the last at its end; the best weights of all of them are kept.
    0: only at the end, and the last weights are kept."""
    probe_examples: int | None = None
    """Held-out examples scored each time before the end. Left out: 64, or fewer where a budget is short."""
    examples: int | None = None
    """Held-out examples scored before the run and at its end. Left out: 400, or fewer where a budget is
    short, about as many as a tenth of it allows."""

    def __post_init__(self) -> None:
        check_numbers(self, "evaluation.")
        for name in ("probe_examples", "examples"):
            value = getattr(self, name)
            wants(value is None or value >= 1, f"evaluation.{name}", value, "1 or more")
        wants(self.times >= 0, "evaluation.times", self.times, "0 or more")


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(BaseSettings):
    """A model taught by examples: conversations, or prompts with their completions."""

    data: ExampleSettings = field(default_factory=ExampleSettings)
    """What is taught."""
    batch_tokens: int = 2_048
    """Tokens of the examples in one forward pass, about; examples are never padded."""
    longest: int | None = None
    """Most tokens of one example. Left out: the context length of the base, at most 2,048."""
    evaluation: FinetuneEvaluation = field(default_factory=FinetuneEvaluation)
    """How often the run is evaluated, and on how many held-out examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        wants(self.batch_tokens >= 16, "batch_tokens", self.batch_tokens, "16 or more")
        wants(self.longest is None or self.longest >= 2, "longest", self.longest, "2 or more")
