"""How the next token is chosen, as options: what is left out is the model's own default."""

from dataclasses import dataclass
from typing import Any

from tuition.core.errors import RequestError, SettingsError
from tuition.engine.request import Sampling


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen. What is left out is the model's own default (tuition models show)."""

    temperature: float | None = None
    """0 takes the most likely token, 1 draws from the model's own distribution."""
    top_k: int | None = None
    """Keep this many most likely tokens; 0 keeps all."""
    top_p: float | None = None
    """Keep the smallest set of tokens with at least this much probability; 0 keeps the most likely one."""
    min_p: float | None = None
    """Drop tokens less likely than this share of the most likely one."""
    repetition_penalty: float | None = None
    """Divides (positive) or multiplies (negative) logits of tokens in prompt or reply; 1 changes nothing."""
    presence_penalty: float | None = None
    """Subtracted once from logits of tokens already in the reply."""
    frequency_penalty: float | None = None
    """Subtracted for each time a token is already in the reply."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of these token ids: pairs of an id and a number."""
    seed: int | None = None
    """Makes replies repeatable. A draw is a function of seed and position."""

    def __post_init__(self) -> None:
        try:
            Sampling(**self.given())
        except RequestError as error:
            wanted = error.problem.rpartition("wanted ")[2]
            raise SettingsError(
                f"sampling.{error.field}", got=getattr(self, error.field), wanted=wanted
            ) from error

    def given(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in vars(self).items() if value not in (None, ())}
