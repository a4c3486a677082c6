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
    probe_bytes: int | None = None
    """Held-out bytes scored each time before the end. Left out: 16,384, or fewer where a budget is short."""
    final_bytes: int | None = None
    """Held-out bytes scored before the run and at its end. Left out: 131,072, or fewer where a budget is
    short: about as many as can be scored in a tenth of it."""

    def __post_init__(self) -> None:
        check_numbers(self, "evaluation.")
        for name in ("probe_bytes", "final_bytes"):
            value = getattr(self, name)
            wants(value is None or value >= 1, f"evaluation.{name}", value, "1 or more")
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
