"""The line under a reply: tokens, speed, energy, money."""

from tuition.core.records import FinishReason
from tuition.core.request_record import RequestCost
from tuition.core.units import format_duration, format_energy, format_usd
from tuition.engine.request import Completion


def line_of(completion: Completion, cost: RequestCost) -> str:
    """The line of a reply that this process computed."""
    timing = completion.timing
    return cost_line(
        cost.total.cost_nusd,
        cost.total.energy_uj,
        prompt_tokens=completion.num_prompt_tokens,
        generated_tokens=completion.num_generated,
        seconds=(timing.finished_ns - timing.submitted_ns) / 1e9 if timing else 0.0,
        energy_method=cost.energy_method,
        finish_reason=completion.finish_reason,
    )


def cost_line(
    cost_nusd: int,
    energy_uj: int | None,
    *,
    prompt_tokens: int,
    generated_tokens: int,
    seconds: float,
    energy_method: str | None,
    finish_reason: FinishReason | str | None,
) -> str:
    """The line with how the energy is known, and what ended the reply if it did not stop by itself."""
    speed = f", {generated_tokens / seconds:.0f} tokens/s" if seconds > 0 and generated_tokens else ""
    energy = format_energy(energy_uj) + (
        f" ({energy_method})" if energy_method and energy_uj is not None else ""
    )
    ended = {"stop": "", None: ""}.get(finish_reason, f" · ended by {finish_reason}")
    return (
        f"{prompt_tokens} + {generated_tokens} tokens in {format_duration(seconds)}{speed} · {energy} · "
        f"{format_usd(cost_nusd)}{ended}"
    )
