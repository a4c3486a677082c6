"""The bill of one request: closed in the account, written to the books, and only then shown to anybody."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tuition.core.errors import BooksError
from tuition.core.records import EnergyMethod
from tuition.core.request_record import RequestCost, RequestRecord
from tuition.engine.request import Request, TokenEvent
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import record_rate, record_request
from tuition.serve.context import ServeContext, ServedModel

log = logging.getLogger("tuition.serve")

API_KEY_ID = "environment"
"""There is one key; rows say that a call came with it, never which it is."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What was booked for one request, or for all requests of a call."""

    cost_nusd: int
    energy_uj: int | None
    energy_method: EnergyMethod | None
    cost_basis: str | None = None
    """How the hourly price of the machine is known: assumed, catalogue, user, measured."""

    @classmethod
    def total(cls, bills: Sequence["Bill"]) -> "Bill":
        """The sum of at least one bill; energy is unknown if one part of it is."""
        known = [bill.energy_uj for bill in bills if bill.energy_uj is not None]
        energy = sum(known) if len(known) == len(bills) else None
        return cls(sum(bill.cost_nusd for bill in bills), energy, bills[0].energy_method, bills[0].cost_basis)


async def settle(
    context: ServeContext,
    model: ServedModel,
    request: Request,
    last: TokenEvent,
    *,
    sent_before: bool = False,
) -> Bill:
    """Close the request's account and wait until its row is committed.

    `sent_before`: a further reply to a prompt that the row of the first one counts. Prompt tokens are those
    that the client sent, as in the usage of its reply; what was computed is a figure of its own.

    Raises: BooksError only if the row is not in the books and never will be. So a write that has begun when
    the time is up is waited for: its caller must not be told that it failed and then find it billed.
    """
    cost = model.account.close(request.id)
    total = cost.total
    try:
        future = record_request(context.books, _record(context, model, request, last, cost, sent_before))
        written = asyncio.wrap_future(future)
        await asyncio.wait({written}, timeout=context.settings.books_timeout_seconds)
        if not written.done() and future.cancel():
            raise TimeoutError
        await written
    except BooksError:
        raise
    except Exception as error:
        raise BooksError(
            f"the row of request {request.id} was not committed ({type(error).__name__})"
        ) from error
    model.spent.num_tokens += last.num_prompt_tokens - last.num_cached_tokens + last.num_generated
    model.spent.cost_nusd += total.cost_nusd
    basis = model.account.machine.provenance("usd_per_hour")
    return Bill(total.cost_nusd, total.energy_uj, cost.energy_method, basis)


def _record(
    context: ServeContext,
    model: ServedModel,
    request: Request,
    last: TokenEvent,
    cost: RequestCost,
    sent_before: bool,
) -> RequestRecord:
    timing, now = last.timing, time.monotonic_ns()
    submitted = timing.submitted_ns if timing is not None else now
    first = timing.first_token_ns if timing is not None else None
    total_ns = max(0, (timing.finished_ns if timing is not None else now) - submitted)
    return RequestRecord(
        cost=cost,
        model=model.name,
        version=model.version,
        weights_digest=model.weights_digest,
        api_key_id=None if context.api_key is None else API_KEY_ID,
        created_unix_ns=time.time_ns() - total_ns,
        prompt_tokens=0 if sent_before else len(request.prompt),
        input_tokens=last.num_prompt_tokens or len(request.prompt),
        cached_tokens=last.num_cached_tokens,
        generated_tokens=last.num_generated,
        queue_ns=None if timing is None else max(0, timing.admitted_ns - submitted),
        first_token_ns=None if first is None else max(0, first - submitted),
        total_ns=total_ns,
        finish_reason=last.finish_reason or "error",
        rate_id=rate_of(context, model),
    )


def rate_of(context: ServeContext, model: ServedModel) -> int:
    """The books' row of the model's machine rate; written once, durable on return. Raises: BooksError."""
    if model.rate_id is None:
        model.rate_id = record_rate(context.books, model.account.machine)
    return model.rate_id


async def open_periods(context: ServeContext) -> None:
    """From now on each model's meter, idle time and overhead are booked every second. Raises: BooksError."""
    for model in context.models.values():
        if model.periods is None:
            rate_id = rate_of(context, model)
            model.periods = Periods(context.books, model.account, rate_id, model.name, model.version)
        await asyncio.to_thread(model.periods.start)


async def close_periods(context: ServeContext) -> None:
    """Book the rest. Raises: BooksError, BusyError."""
    for model in context.models.values():
        if model.periods is not None:
            await asyncio.to_thread(model.periods.close)
