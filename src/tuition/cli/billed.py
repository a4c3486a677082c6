"""Requests of the command line, billed like the server's: a reply ends after its row is on disk."""

import secrets
import time
from functools import cached_property
from typing import Any

from tuition.books.books import Books
from tuition.cli.serving import OpenModel
from tuition.core.amount import NOTHING
from tuition.core.records import FinishReason
from tuition.core.request_record import RequestCost, RequestRecord
from tuition.core.units import format_duration, format_energy, format_usd
from tuition.engine.request import Completion
from tuition.ledger.receipts import record_request


class Biller:
    """Writes the row of each request of one open model."""

    def __init__(self, opened: OpenModel, books: Books) -> None:
        self.opened, self.books = opened, books
        run = f"cli-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        opened.engine.id_prefix = f"{run}-request"
        self._costs: dict[str, RequestCost] = {}
        self.total = NOTHING
        """Of all requests so far."""
        opened.engine.on_reply = self._keep

    def _keep(self, completion: Completion) -> None:
        self._costs[completion.request_id] = self.bill(completion)

    def bill_of(self, request_id: str) -> dict[str, Any]:
        """What a reply of the engine has cost, as fields for a program; asked for once."""
        cost = self._costs.pop(request_id)
        return {
            "cost_usd": cost.total.usd,
            "energy_wh": cost.total.energy_wh,
            "energy_method": cost.energy_method,
        }

    @cached_property
    def _digest(self) -> str:
        """Proven when the first reply is billed, and not before its first token."""
        return self.opened.engine.runner.weights_digest()

    def bill(self, completion: Completion) -> RequestCost:
        """Close the request's account and write its row; on return it is on disk. Raises: BooksError.

        Of the completion only the counts, the times and the end are read.
        """
        cost = self.opened.account.close(completion.request_id)
        record_request(self.books, self._record(completion, cost)).result()
        self.total += cost.total
        return cost

    def _record(self, completion: Completion, cost: RequestCost) -> RequestRecord:
        timing = completion.timing
        total = timing.finished_ns - timing.submitted_ns if timing else 0
        first = timing.first_token_ns if timing else None
        return RequestRecord(
            cost=cost,
            model=self.opened.name,
            version=self.opened.version,
            weights_digest=self._digest,
            api_key_id=None,
            created_unix_ns=time.time_ns() - total,
            prompt_tokens=completion.num_prompt_tokens,
            input_tokens=completion.num_prompt_tokens,
            cached_tokens=completion.num_cached_tokens,
            generated_tokens=completion.num_generated,
            queue_ns=timing.admitted_ns - timing.submitted_ns if timing else None,
            first_token_ns=first - timing.submitted_ns if timing and first is not None else None,
            total_ns=total,
            finish_reason=completion.finish_reason,
            rate_id=self.opened.rate_id,
        )

    def line(self, completion: Completion, cost: RequestCost) -> str:
        """What one reply cost, for people."""
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
    """One line under a reply: tokens, speed, energy, money, and how the energy is known."""
    speed = f", {generated_tokens / seconds:.0f} tokens/s" if seconds > 0 and generated_tokens else ""
    energy = format_energy(energy_uj) + (
        f" ({energy_method})" if energy_method and energy_uj is not None else ""
    )
    ended = {"stop": "", None: ""}.get(finish_reason, f" · ended by {finish_reason}")
    return (
        f"{prompt_tokens} + {generated_tokens} tokens in {format_duration(seconds)}{speed} · {energy} · "
        f"{format_usd(cost_nusd)}{ended}"
    )
