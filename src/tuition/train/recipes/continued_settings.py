"""Settings of continued pretraining. Frozen, documented by field, no torch: the command line is derived from
them."""

from dataclasses import dataclass, field

from tuition.data.settings import DataSettings
from tuition.train.recipes.base_settings import BaseSettings
from tuition.train.settings import check_numbers, wants


@dataclass(frozen=True)
class ContinuedEvaluation:
    """How often a run is evaluated, and on how much of the held-out text."""

    times: int = 4
    """Evaluations spread evenly over the run, the last at its end; the best weights of all of them are kept.
    0: only at the end, and the last weights are kept."""
    probe_bytes: int = 16_384
    """Held-out bytes scored each time before the end."""
    final_bytes: int = 131_072
    """Held-out bytes scored before the run and at its end."""

    def __post_init__(self) -> None:
        check_numbers(self, "evaluation.")
        for name in ("probe_bytes", "final_bytes"):
            wants(getattr(self, name) >= 1, f"evaluation.{name}", getattr(self, name), "1 or more")
        wants(self.times >= 0, "evaluation.times", self.times, "0 or more")


@dataclass(frozen=True, kw_only=True)
class ContinuedSettings(BaseSettings):
    """A model taught more plain text."""

    data: DataSettings = field(default_factory=DataSettings)
    """What is taught."""
    batch_size: int = 4
    """Rows in one forward pass."""
    seq_len: int | None = None
    """Tokens in one row. Left out: the context length of the base, at most 512."""
    evaluation: ContinuedEvaluation = field(default_factory=ContinuedEvaluation)
    """How often the run is evaluated, and on how much of the held-out text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        wants(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        wants(self.seq_len is None or self.seq_len >= 2, "seq_len", self.seq_len, "2 or more")
