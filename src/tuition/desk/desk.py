"""The account of one model: every request of it is closed, written to the books, and only then shown.

In: the end of a reply (its last event, or the completion).  Out: a `Settled` request or a `Bill`, once the
row is on disk. While a desk is open its meter, idle time and overhead are booked every second.

    with Desk(books, account, identity) as desk:
        settled = desk.settle(completion)                         # waits until the row is on disk
        bill = await desk.settle_soon(event, timeout_s=30)        # the same for an event loop

The account may be traced (our own engine tells every step) or reported (a foreign backend tells only when a
request began and ended): a desk uses both alike.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from tuition.books.books import Books
from tuition.core.amount import NOTHING, Amount
from tuition.core.digests import digest_of_pair
from tuition.core.errors import BooksError, UncertainCommitError
from tuition.core.records import EnergyMethod, FinishReason
from tuition.core.request_record import RequestCost, RequestRecord
from tuition.ledger.account import Account
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import record_rate, record_request


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model a desk bills."""

    name: str
    version: int | None
    """In the registry; None for a folder or file that is not registered."""


class Moments(Protocol):
    """When a request came, was admitted, had its first token and ended; monotonic clock, ns."""

    @property
    def submitted_ns(self) -> int: ...
    @property
    def admitted_ns(self) -> int: ...
    @property
    def first_token_ns(self) -> int | None: ...
    @property
    def finished_ns(self) -> int: ...


class Ending(Protocol):
    """The end of a reply: `engine.request.TokenEvent` with a finish_reason, or `Completion`."""

    @property
    def request_id(self) -> str: ...
    @property
    def finish_reason(self) -> FinishReason | None: ...
    @property
    def num_prompt_tokens(self) -> int: ...
    @property
    def num_cached_tokens(self) -> int: ...
    @property
    def num_generated(self) -> int: ...
    @property
    def timing(self) -> Moments | None: ...
    @property
    def variant(self) -> str | None:
        """Which adapter made it, beside others of one engine."""
        ...

    @property
    def weights_digest(self) -> str | None:
        """Of the weights that computed its end, where they are not those that were loaded."""
        ...


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


@dataclass(frozen=True, slots=True)
class Spent:
    """What the replies of a desk have cost since it was opened."""

    num_tokens: int = 0
    """Prompt tokens that were computed, and generated ones."""
    total: Amount = NOTHING

    @property
    def usd_per_token(self) -> float | None:
        """None until something was served."""
        return self.total.cost_nusd / self.num_tokens / 1e9 if self.num_tokens else None


class Desk:
    """See the module. Thread-safe. One for each account, and others `beside` it for adapters."""

    def __init__(
        self, books: Books, account: Account, model: ModelIdentity, adapter_digest: str | None = None
    ) -> None:
        """Nothing is written before `open`, or before the first request is settled.

        `adapter_digest`: where `model` is an adapter, used with the weights that `serves` is told of.
        """
        self.books, self.account, self.model = books, account, model
        self._adapter_digest, self._beside = adapter_digest, False
        self.spent = Spent()
        self._lock = threading.Lock()
        self._digest_of: Callable[[], str] | None = None
        self._digest: str | None = None
        self._rate_id: int | None = None
        self._periods: Periods | None = None

    @property
    def rate_id(self) -> int:
        """The books' row of the machine's rate; durable on return. Raises: BooksError, BusyError."""
        if self._rate_id is None:
            self._rate_id = record_rate(self.books, self.account.machine)
        return self._rate_id

    def serves(self, digest_of: Callable[[], str]) -> None:
        """`digest_of` gives the digest of the weights in use from now on; called once, when it is needed."""
        self._digest_of, self._digest = digest_of, None

    def beside(self, model: ModelIdentity, adapter_digest: str | None = None) -> "Desk":
        """A desk on the same account for requests that another model of this engine answers: an adapter of
        this base, or the base of this adapter. Idle time is booked here, so that one need not be opened."""
        desk = Desk(self.books, self.account, model, adapter_digest)
        desk._rate_id, desk._digest_of, desk._beside = self.rate_id, lambda: self.base_digest or "", True
        return desk

    @property
    def base_digest(self) -> str | None:
        """SHA-256 of the weights that were loaded; None where a backend does not tell."""
        if self._digest is None and self._digest_of is not None:
            self._digest = self._digest_of() or None
        return self._digest

    @property
    def weights_digest(self) -> str | None:
        """The same, together with the adapter's where there is one: as receipts name it."""
        return self.digest_with(self.base_digest)

    def digest_with(self, base: str | None) -> str | None:
        """What receipts name where these are the weights of the base."""
        if base is None or self._adapter_digest is None:
            return base
        return digest_of_pair(self._adapter_digest, base)

    def open(self) -> Self:
        """Book the meter every second from now on; safe to call twice. Raises: BooksError, BusyError."""
        if self._beside:
            return self
        rate_id = self.rate_id
        with self._lock:
            if self._periods is None:
                model = self.model
                self._periods = Periods(self.books, self.account, rate_id, model.name, model.version)
        self._periods.start()
        return self

    def close(self) -> None:
        """Book the rest of the last period; safe to call twice. Raises: BooksError, BusyError."""
        if self._periods is not None:
            self._periods.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def settle(self, end: Ending) -> RequestCost:
        """Close the account of a request and write its row; on return it is on disk.

        Raises: BooksError, BusyError.
        """
        return self.begin_settle(end)()

    def begin_settle(self, end: Ending) -> Callable[[], RequestCost]:
        """The same in two parts: the row is queued now; what is returned waits for it, and must be called."""
        record, written = self._write(end, end.num_prompt_tokens, None)

        def wait() -> RequestCost:
            with self._written_off_if_refused(record):
                written.result()
            self._count(record)
            return record.cost

        return wait

    async def settle_soon(
        self,
        end: Ending,
        *,
        prompt_tokens: int,
        timeout_s: float,
        api_key_id: str | None = None,
    ) -> Bill:
        """The same for an event loop.

        `prompt_tokens`: what the client sent with this reply: 0 for a further reply to one prompt.

        Raises: BooksError only if the row is not in the books and never will be. So a write that has begun
        when the time is up is waited for: its caller must not be told that it failed and then find it billed.
        """
        try:
            record, future = self._write(end, prompt_tokens, api_key_id)
            with self._written_off_if_refused(record):
                written = asyncio.wrap_future(future)
                await asyncio.wait({written}, timeout=timeout_s)
                if not written.done() and future.cancel():
                    raise TimeoutError
                await written
        except BooksError:
            raise
        except Exception as error:
            raise BooksError(
                f"the row of request {end.request_id} was not committed ({type(error).__name__})"
            ) from error
        self._count(record)
        total, basis = record.cost.total, self.account.machine.provenance("usd_per_hour")
        return Bill(total.cost_nusd, total.energy_uj, record.cost.energy_method, basis)

    def _write(
        self, end: Ending, prompt_tokens: int, api_key_id: str | None
    ) -> tuple[RequestRecord, "Future[None]"]:
        cost = self.account.close(end.request_id)
        try:
            record = self._record(end, cost, prompt_tokens, api_key_id)
            return record, record_request(self.books, record)
        except Exception:
            self.account.write_off(cost)
            raise

    @contextmanager
    def _written_off_if_refused(self, record: RequestRecord) -> Iterator[None]:
        """Nobody pays a request whose row is not in the books; its time is overhead."""
        try:
            yield
        except UncertainCommitError:  # the row may be there
            raise
        except Exception:
            self.account.write_off(record.cost)
            raise

    def _record(
        self, end: Ending, cost: RequestCost, prompt_tokens: int, api_key_id: str | None
    ) -> RequestRecord:
        timing, now = end.timing, time.monotonic_ns()
        submitted = timing.submitted_ns if timing is not None else now
        first = timing.first_token_ns if timing is not None else None
        total_ns = max(0, (timing.finished_ns if timing is not None else now) - submitted)
        return RequestRecord(
            cost=cost,
            model=self.model.name,
            version=self.model.version,
            weights_digest=self.digest_with(end.weights_digest or self.base_digest),
            api_key_id=api_key_id,
            created_unix_ns=time.time_ns() - total_ns,
            prompt_tokens=prompt_tokens,
            input_tokens=end.num_prompt_tokens or prompt_tokens,
            cached_tokens=end.num_cached_tokens,
            generated_tokens=end.num_generated,
            queue_ns=None if timing is None else max(0, timing.admitted_ns - submitted),
            first_token_ns=None if first is None else max(0, first - submitted),
            total_ns=total_ns,
            finish_reason=end.finish_reason or "error",
            rate_id=self.rate_id,
        )

    def _count(self, record: RequestRecord) -> None:
        tokens = record.input_tokens - record.cached_tokens + record.generated_tokens
        with self._lock:
            spent = self.spent
            self.spent = Spent(spent.num_tokens + tokens, spent.total + record.cost.total)
