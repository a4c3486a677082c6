"""The engine's own thread: requests from any thread in, streams of events out, synchronous or asynchronous.

Requests and cancellations wait in an inbox that the thread empties between two steps. A stream holds at most
as many events as its request may generate tokens, so a slow reader costs a bounded amount and never slows the
others; an asynchronous reader costs no thread.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from tuition.core.errors import BusyError, RequestError, TuitionError
from tuition.core.records import StepTrace
from tuition.engine.blocks import CacheIntegrityError
from tuition.engine.request import Completion, Request, TokenEvent, complete
from tuition.engine.step import StepLoop
from tuition.engine.variants import Variant
from tuition.model.folder import ModelFolder

log = logging.getLogger(__name__)

State = Literal["running", "draining", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """The state of the service, and counts since its start."""

    state: State
    num_waiting: int
    num_running: int
    num_blocks: int
    num_free_blocks: int
    num_kept_blocks: int
    num_steps: int
    num_finished: int
    num_preemptions: int
    num_trace_errors: int
    """Steps whose cost the listener failed to record: it is missing from the ledger."""
    num_integrity_errors: int
    swapped_digest: str | None
    """Of the weights in use, once they were swapped."""
    step_started_ns: int | None
    """Start of the present step, monotonic; None between steps. A monitor can detect a hang by it."""


@dataclass(slots=True, eq=False)
class _Change:
    """Something that is done to the loop between two steps, and the future of its caller."""

    make: Callable[[StepLoop], StepTrace | None]
    done: "Future[None]"


class Stream:
    """The events of one request. Iterate once, with `for` or `async for`; `cancel()` from any thread."""

    def __init__(self, request: Request, cancel: Callable[[str], None]) -> None:
        self.request = request
        self._cancel = cancel
        self._events: deque[TokenEvent] = deque()
        self._lock = threading.Lock()
        self._arrived: threading.Condition | None = None
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._ended = False

    def cancel(self) -> None:
        """Stop generating; the stream still ends with its last event. No effect once it has ended."""
        self._cancel(self.request.id)

    def deliver(self, event: TokenEvent) -> None:
        """Add an event and wake the reader; called by the engine's thread."""
        with self._lock:
            self._events.append(event)
            waiter, self._waiter = self._waiter, None
            if self._arrived is not None:
                self._arrived.notify()
        if waiter is not None:
            loop, future = waiter
            try:
                loop.call_soon_threadsafe(_wake, future)
            except RuntimeError:  # the reader's event loop is closed
                self.cancel()

    def _pop(self) -> TokenEvent | None:
        event = self._events.popleft() if self._events else None
        if event is not None and event.finish_reason is not None:
            self._ended = True
        return event

    def __iter__(self) -> Iterator[TokenEvent]:
        while not self._ended:
            with self._lock:
                if self._arrived is None:
                    self._arrived = threading.Condition(self._lock)
                while not self._events:
                    self._arrived.wait()
                event = self._pop()
            if event is not None:
                yield event

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        loop = asyncio.get_running_loop()
        while not self._ended:
            future = None
            with self._lock:
                event = self._pop()
                if event is None:
                    future = loop.create_future()
                    self._waiter = (loop, future)
            if future is not None:
                await future
            elif event is not None:
                yield event

    def result(self) -> Completion:
        """Wait for the end and fold the events; not for event loops."""
        return complete(list(self))

    async def aresult(self) -> Completion:
        """The same, for event loops."""
        return complete([event async for event in self])


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class EngineService:
    """A `StepLoop` in its own thread.

    `on_trace` is called in that thread after each step, before the events of the step are delivered: when a
    reader sees the end of a reply, its cost has been reported.
    """

    def __init__(
        self, loop: StepLoop, on_trace: Callable[[StepTrace], None] | None = None, *, name: str = "engine"
    ) -> None:
        self.loop = loop
        self._on_trace = on_trace
        self._streams: dict[str, Stream] = {}
        self._inbox: deque[tuple[Request, int] | str | _Change] = deque()
        self._changes: list[_Change] = []
        """Those whose callers wait."""
        self._lock = threading.Lock()
        self._wake_up = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._state: State = "running"
        self._failure: str | None = None
        self._num_steps = self._num_finished = self._num_trace_errors = self._num_integrity_errors = 0
        self._step_started_ns: int | None = None
        self._checked = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # ---- any thread

    def submit(self, request: Request) -> Stream:
        """Start a request. Raises: RequestError, CapacityError; BusyError when full, draining or stopped."""
        self.loop.validate(request)
        stream = Stream(request, self.cancel)
        settings = self.loop.settings
        with self._lock:
            if self._state != "running":
                raise BusyError(self._failure or f"the engine is {self._state}", retry_after_s=5)
            if len(self._streams) >= settings.max_waiting + settings.max_batch:
                raise BusyError(f"{len(self._streams):,} requests are in the engine", retry_after_s=1)
            if request.id in self._streams:
                raise RequestError("id", f"{request.id} is in use")
            self._streams[request.id] = stream
            self._inbox.append((request, time.monotonic_ns()))
            self._call()
        return stream

    def cancel(self, request_id: str) -> None:
        """End a request as `cancelled`; no effect on one that has ended."""
        with self._lock:
            if request_id in self._streams:
                self._inbox.append(request_id)
                self._call()

    def swap_weights(self, model: ModelFolder, timeout_s: float | None = None) -> None:
        """Compute with other weights from the next step on, see `StepLoop.swap_weights`; waits for it.

        Raises: as there; BusyError when draining or stopped; TimeoutError, and then it is done later.
        """
        self._change(lambda loop: loop.swap_weights(model), timeout_s)

    def add_variant(self, name: str, variant: Variant, timeout_s: float | None = None) -> None:
        """Let requests name this variant; see `StepLoop.add_variant`. Raises: as there and `swap_weights`."""
        self._change(lambda loop: loop.add_variant(name, variant), timeout_s)

    def remove_variant(self, name: str, timeout_s: float | None = None) -> None:
        """Forget a variant; see `StepLoop.remove_variant`. Raises: as there and `swap_weights`."""
        self._change(lambda loop: loop.remove_variant(name), timeout_s)

    def _change(self, make: Callable[[StepLoop], StepTrace | None], timeout_s: float | None) -> None:
        """Let the engine's thread do this between two steps, and wait for it."""
        change = _Change(make, Future())
        with self._lock:
            if self._state != "running":
                raise BusyError(self._failure or f"the engine is {self._state}", retry_after_s=5)
            self._inbox.append(change)
            self._changes.append(change)
            self._call()
        change.done.result(timeout_s)

    def stats(self) -> ServiceStats:
        """The present state; cheap, from any thread."""
        with self._lock:
            stats = self.loop.stats()
            return ServiceStats(
                state=self._state,
                num_waiting=max(0, len(self._streams) - stats.num_running),
                num_running=stats.num_running,
                num_blocks=stats.num_blocks,
                num_free_blocks=stats.num_free_blocks,
                num_kept_blocks=stats.num_kept_blocks,
                num_steps=self._num_steps,
                num_finished=self._num_finished,
                num_preemptions=stats.num_preemptions,
                num_trace_errors=self._num_trace_errors,
                num_integrity_errors=self._num_integrity_errors,
                swapped_digest=self.loop.swapped_digest,
                step_started_ns=self._step_started_ns,
            )

    def drain(self, timeout_s: float | None = None) -> bool:
        """Accept no more requests and wait for the accepted ones; False when `timeout_s` was not enough."""
        with self._lock:
            if self._state == "running":
                self._state = "draining"
            return self._idle.wait_for(lambda: not self._streams, timeout_s)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Cancel the remaining requests and end the thread. The caller closes the runner."""
        with self._lock:
            if self._state != "failed":
                self._state = "stopped"
            self._inbox.extend(list(self._streams))
            self._call()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _call(self) -> None:
        """With the lock held: make the engine's thread read the inbox."""
        self.loop.hurry(True)
        self._wake_up.notify()

    # ---- the engine's thread

    def _run(self) -> None:
        try:
            while self._take_inbox():
                if self.loop.has_work:
                    self._step()
        except BaseException as error:
            log.critical("the engine's thread failed", exc_info=error)
            self._fail(f"the engine failed: {type(error).__name__}")
        finally:
            self.loop.hurry(False)  # the loop may be used without the service afterwards

    def _take_inbox(self) -> bool:
        """Wait for work and accept it; False when the thread should end."""
        while True:
            with self._lock:
                if not self._inbox and not self.loop.has_work:
                    if self._state == "stopped":
                        return False
                    if self._checked:
                        self._wake_up.wait()
                if not self._inbox and self.loop.has_work:
                    return True
                news = list(self._inbox)
                self._inbox.clear()
                self.loop.hurry(False)
            if not news and not self._checked:
                self._check_when_idle()
            for item in news:
                self._checked = False
                if isinstance(item, str):
                    self.loop.cancel(item)
                elif isinstance(item, _Change):
                    self._make(item)
                else:
                    self._start(*item)

    def _start(self, request: Request, submitted_ns: int) -> None:
        try:
            self.loop.submit(request, submitted_ns)
        except Exception as error:
            if not isinstance(error, TuitionError):
                log.error("request %s could not start", request.id, exc_info=error)
            event = TokenEvent(
                request.id,
                (),
                "",
                finish_reason="error",
                num_prompt_tokens=len(request.prompt),
                error=str(error),
            )
            self._deliver([event])

    def _make(self, change: _Change) -> None:
        try:
            trace = change.make(self.loop)
        except Exception as error:
            change.done.set_exception(error)
        else:
            if trace is not None:
                self._report(trace)
            change.done.set_result(None)
        with self._lock:
            self._changes.remove(change)

    def _step(self) -> None:
        self._step_started_ns = time.monotonic_ns()
        events, trace = self.loop.step()
        self._step_started_ns = None
        if trace is not None:
            self._num_steps += trace.num_steps
            self._report(trace)
        self._deliver(events)

    def _report(self, trace: StepTrace) -> None:
        """Tell the listener of a cost."""
        if self._on_trace is not None:
            try:
                self._on_trace(trace)
            except Exception as error:
                self._num_trace_errors += 1
                log.error("the cost of a step was not recorded", exc_info=error)

    def _deliver(self, events: list[TokenEvent]) -> None:
        for event in events:
            stream = self._streams.get(event.request_id)
            if event.finish_reason is not None:
                with self._lock:
                    self._streams.pop(event.request_id, None)
                    self._num_finished += 1
                    if not self._streams:
                        self._idle.notify_all()
            if stream is not None:
                stream.deliver(event)

    def _check_when_idle(self) -> None:
        self._checked = True
        try:
            self.loop.check()
        except CacheIntegrityError as error:
            self._num_integrity_errors += 1
            log.critical("the cache's block counts were wrong; the cache is reset", exc_info=error)
            self.loop.reset_cache()

    def _fail(self, error: str) -> None:
        """End every stream with an error, so that no reader waits forever."""
        with self._lock:
            self._state, self._failure = "failed", error
            self._step_started_ns = None
            streams, self._streams = list(self._streams.values()), {}
            changes, self._changes = self._changes, []
            self._inbox.clear()
            self._idle.notify_all()
        for change in changes:
            change.done.set_exception(BusyError(error, retry_after_s=5))
        for stream in streams:
            request = stream.request
            stream.deliver(
                TokenEvent(
                    request.id,
                    (),
                    "",
                    finish_reason="error",
                    num_prompt_tokens=len(request.prompt),
                    error=error,
                )
            )
