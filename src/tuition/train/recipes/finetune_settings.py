"""Settings of fine-tuning. Frozen, documented by field, no torch: the command line is derived from them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tuition.data.settings import ExampleSettings
from tuition.model.adapter import AdapterSettings
from tuition.train.settings import check_numbers, wants

Frozen = Literal["float32", "bfloat16", "int8"]
From = Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL")]
"""`from` is a word of Python, so the field is called `base`."""


@dataclass(frozen=True)
class TuneEvaluation:
    """How often a run from a base is evaluated, and on how much."""

    times: int = 4
    """Evaluations spread evenly over the run, the last at its end; the best weights of all of them are kept.
    0: only at the end, and the last weights are kept."""
    probe_examples: int = 64
    """Held-out examples scored each time before the end."""
    examples: int = 400
    """Held-out examples scored before the run and at its end."""
    control_bytes: int = 24_576
    """Bytes of the control text that are scored before the run and at its end; 0: none."""

    def __post_init__(self) -> None:
        check_numbers(self, "evaluation.")
        for name in ("probe_examples", "examples"):
            wants(getattr(self, name) >= 1, f"evaluation.{name}", getattr(self, name), "1 or more")
        for name in ("times", "control_bytes"):
            wants(getattr(self, name) >= 0, f"evaluation.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True)
class FinetuneSettings:
    """A model taught by examples: conversations, or prompts with their completions."""

    base: From = None
    """The model to begin from: a registered name, name@version, a model folder or a GGUF file."""
    data: ExampleSettings = field(default_factory=ExampleSettings)
    """What is taught."""
    adapter: Literal["auto", "lora", "none"] = "auto"
    """lora: the base stays as it is, and a small adapter is taught, saved by itself and served beside its
    base. none: all weights are taught, and the result is a model of its own. auto: none for bases of up to
    500 million parameters, lora for larger ones."""
    lora: AdapterSettings = field(default_factory=AdapterSettings)
    """The adapter."""
    frozen: Frozen = "bfloat16"
    """How the base is held while an adapter is taught: float32, bfloat16, or int8, which takes the least
    memory and rounds the most."""
    batch_tokens: int = 2_048
    """Tokens of the examples in one forward pass, about; examples are never padded."""
    longest: int | None = None
    """Most tokens of one example. Left out: the context length of the base, at most 2,048."""
    save_as: Literal["float32", "bfloat16"] = "float32"
    """Number format of the saved model; float32 is exactly what was evaluated."""
    control: Path | None = None
    """A text file that shows what is forgotten: it is scored before and after. Left out: a part of the
    manual of the running Python, in English."""
    evaluation: TuneEvaluation = field(default_factory=TuneEvaluation)
    """How often and on how much the run is evaluated."""

    def __post_init__(self) -> None:
        check_numbers(self)
        wants(self.batch_tokens >= 16, "batch_tokens", self.batch_tokens, "16 or more")
        wants(self.longest is None or self.longest >= 2, "longest", self.longest, "2 or more")
