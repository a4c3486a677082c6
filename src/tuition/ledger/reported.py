"""The account of a foreign backend: it tells only when a request began and ended, and its tokens.

    account = ReportedAccount(machine, open_meter(machine))
    account.begin(request_id)
    account.end(request_id, prompt_tokens=..., cached_tokens=..., generated_tokens=...)
    cost = account.close(request_id)

At every moment the requests that are under way share the backend's time, energy and money equally, since
nothing tells them apart; a request that is alone pays all of it. Time without a request is idle. What a
request pays counts as decode: when a backend has read the prompt is not known.
"""

import time
from collections.abc import Callable

from tuition.ledger.account import UNITS, Account, add
from tuition.ledger.amount import split_integer
from tuition.ledger.meter import Meter
from tuition.ledger.witness import Witness
from tuition.spec.machine import Machine

RULE = "equal shares"


class ReportedAccount(Account):
    """See the module."""

    def __init__(
        self,
        machine: Machine,
        meter: Meter,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        witness: Witness | None = None,
    ) -> None:
        super().__init__(machine, meter, rule=RULE, clock=clock, witness=witness)
        self._under_way: dict[str, None] = {}
        self._busy_since = 0

    def begin(self, request_id: str) -> None:
        """A request was sent to the backend. Raises: ValueError for one that is under way."""
        with self._lock:
            if request_id in self._under_way:
                raise ValueError(f"request {request_id} is under way already")
            now = self._clock()
            self._share(now)
            if not self._under_way:
                self._busy_since = now
            self._under_way[request_id] = None
            self._tab(request_id)

    def end(
        self, request_id: str, *, prompt_tokens: int = 0, cached_tokens: int = 0, generated_tokens: int = 0
    ) -> None:
        """The backend has answered, or its request was given up; call `close` after it."""
        with self._lock:
            now = self._clock()
            self._share(now)
            if self._under_way.pop(request_id, ...) is ...:
                raise ValueError(f"request {request_id} is not under way")
            if not self._under_way:
                self.busy.end(self._busy_since, now)
            tab = self._tab(request_id)
            if tab is not None:
                tab.num_steps += 1
                tab.computed_tokens += prompt_tokens - cached_tokens + generated_tokens
            self._num_steps += 1

    def _share(self, now_ns: int) -> None:
        """Split the time since the last event among the requests that were under way."""
        if not self._under_way:
            self._pass_time(now_ns, None, self.meter.read())
            return
        step = self._pass_time(now_ns, self._cursor, self.meter.read())
        self._worked_ns += step[0]
        add(self._attributed, step)
        parts = [
            split_integer(unit * size, [1] * len(self._under_way))
            for unit, size in zip(step, UNITS, strict=True)
        ]
        for index, request_id in enumerate(self._under_way):
            tab = self._tab(request_id)
            mine = (parts[0][index], parts[1][index], parts[2][index])
            if tab is None:
                self._charge_late(mine)
            else:
                tab.charge("decode", mine)

    def _mark_now(self, give_up: bool = False) -> bool:
        with self._lock:
            now = self._clock()
            if self._under_way:  # a piece of busy time ends here and the next begins
                self.busy.end(self._busy_since, now)
                self._busy_since = now
            reading = self.meter.read()
            if self._under_way:
                self._share(now)
                reading = self._reading
            self._apply(self._mark_at(now, reading, self.busy.read(now).busy_ns))
            return True

    def _settle(self) -> None:
        """Nothing waits: every event is split when it comes."""
