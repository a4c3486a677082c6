"""The bill of a training run, kept while it runs, so that a run that is killed is billed up to its last save.

    with TrainingBill.open(books, meter, RunInfo(model="bard", recipe="pretrain")) as bill:
        with bill.overhead("data"): ...     # preparation, evaluation, checkpoints, loading
        for record in fit(...): bill.add_step(record)
        bill.save()                         # with every checkpoint

Between, a separate thread saves it every second, in whatever phase the run is. The `with` closes it as
finished; as stopped after Ctrl-C; as failed after any other exception.

Steps and overhead must be measured by `bill.meter`: it keeps an independent window of the whole run, which is
written beside the run's costs as a period of kind `training`.
"""

import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

from tuition.books.books import Books
from tuition.core.amount import NOTHING, Amount
from tuition.core.errors import TuitionError
from tuition.core.records import StepRecord, Window
from tuition.ledger.amount import amount_of
from tuition.ledger.meter import Meter
from tuition.ledger.periods import run_columns
from tuition.ledger.process import process_identity
from tuition.ledger.receipts import record_rate
from tuition.ledger.runs import (
    CostKind,
    OverheadKind,
    RunInfo,
    Status,
    begin_run,
    new_run_id,
    recover_run,
    resume_run,
    write_run,
)
from tuition.ledger.watched import WatchedMeter, WatchedTotals

SAVE_EVERY_S = 1.0
"""Between saves that the bill makes by itself, in the background."""

SETTLE_S = 0.05
"""How long a save waits for a window that was closed and is on its way into the bill."""


class TrainingBill:
    """See the module. Made by `open` or `resume`. Thread-safe."""

    def __init__(self, books: Books, meter: Meter, run_id: str, rate_id: int, model: str) -> None:
        self.books, self.run_id, self.rate_id = books, run_id, rate_id
        self.meter = WatchedMeter(meter)
        """Measures the run's windows, and the whole run beside them."""
        self._fixed = {
            "kind": "training",
            "model": model,
            "version": None,
            "run_id": run_id,
            "account": secrets.token_hex(8),
            "number": 0,
            "process": process_identity(),
            "rate_id": rate_id,
        }
        self._parts: dict[CostKind, Amount] = {}
        self._num_windows = 0
        self._posted: dict[CostKind, Amount] = {}
        self._base: dict[CostKind, Amount] = {}
        """What earlier processes of this run have posted."""
        self._figures = {"num_steps": 0, "num_tokens": 0, "redone_tokens": 0, "progress": 0.0}
        self._described: dict[str, str | int] = {}
        self._flops = 0
        self._last_loss: float | None = None
        self._in_flight: Future[None] | None = None
        self._sent: dict[CostKind, Amount] = {}
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self.problem: str | None = None
        """Why the last background save failed; the next one tries again with everything since."""

    @classmethod
    def open(cls, books: Books, meter: Meter, info: RunInfo, run_id: str | None = None) -> Self:
        """Begin a run: its row is on disk, with status `running`, when this returns."""
        rate_id = record_rate(books, meter.machine)
        chosen = run_id or new_run_id(info.model)
        bill = cls(books, meter, chosen, rate_id, info.model)
        books.write_now(lambda connection: begin_run(connection, chosen, info, rate_id))
        bill._begin_saving()
        return bill

    @classmethod
    def resume(cls, books: Books, meter: Meter, run_id: str) -> Self:
        """Continue a run; its costs so far stay. Steps that are done again count as redone tokens.

        Raises: NotFoundError for an unknown run, BusyError for one that another process goes on with.
        """
        rate_id = record_rate(books, meter.machine)

        row, costs = books.write_now(lambda connection: resume_run(connection, run_id, rate_id))
        bill = cls(books, meter, run_id, rate_id, row["model"])
        bill._figures = {name: row[name] for name in bill._figures}
        bill._flops, bill._last_loss = row["flops"], row["last_loss"]
        bill._base = costs
        bill._begin_saving()
        return bill

    @property
    def total(self) -> Amount:
        """Everything so far, saved or not, earlier processes of the run included."""
        return sum((amount for _, amount in self._so_far()), NOTHING)

    @property
    def teaching_ns(self) -> int:
        """Wall time so far without preparation (data, load), saved or not."""
        return _teaching_ns(self._so_far())

    @property
    def earlier_teaching_ns(self) -> int:
        """Of it, what earlier processes of the run had saved."""
        return _teaching_ns(self._base.items())

    def to_table(self) -> dict[str, Any]:
        """The bill so far as plain JSON values, for the model's own folder: integers, and how each of them
        was obtained.

        What comes after, such as registering the model, is in the books only.
        """
        total, machine, rate = self.total, self.meter.machine, self.meter.rate
        origin = machine.origins.get("usd_per_hour")
        return {
            "run_id": self.run_id,
            "wall_ns": total.wall_ns,
            "energy_uj": total.energy_uj,
            "energy_method": None if total.energy_uj is None else self.meter.method,
            "cost_nusd": total.cost_nusd,
            "rate": {
                "machine": machine.name,
                "nusd_per_hour": rate.nusd_per_hour,
                "nusd_per_kwh": rate.nusd_per_kwh,
                "provenance": machine.provenance("usd_per_hour"),
                "source": None if origin is None else origin.source,
            },
        }

    def describe(
        self,
        *,
        settings_toml: str | None = None,
        corpus_digest: str | None = None,
        num_parameters: int | None = None,
    ) -> None:
        """Add what became known after the start; it goes into the books with the next save."""
        known = {
            "settings_toml": settings_toml,
            "corpus_digest": corpus_digest,
            "num_parameters": num_parameters,
        }
        with self._lock:
            self._described |= {name: value for name, value in known.items() if value is not None}

    def add_step(self, record: StepRecord) -> None:
        """Count one optimizer step."""
        with self._lock:
            self._add("step", record.window)
            figures = self._figures
            if record.step <= figures["num_steps"]:
                figures["redone_tokens"] += record.num_units
            figures["num_steps"] = max(figures["num_steps"], record.step)
            figures["num_tokens"] += record.num_units
            figures["progress"] = record.progress
            self._flops += record.flops
            self._last_loss = record.loss

    def record(self) -> dict[str, Any]:
        """Counts and the meter so far as plain JSON values. A checkpoint carries them beside the state that
        they count; `recover` takes them back."""
        with self._lock:
            seen = self._totals()
            return {"counts": self._counts, "period": self._period(seen, self._now(seen), "running")}

    def recover(self, record: Mapping[str, Any]) -> None:
        """Bring the books up to a checkpoint that is ahead of them: the run was killed between its checkpoint
        and the save of its bill. Call it before the first step. Raises: BooksError, BusyError."""
        if "period" not in record:
            return  # from before checkpoints carried costs: counts without costs are not taken
        with self._lock:
            self._collect()
            counts, period = record["counts"], record["period"]
            gap = self.books.write_now(lambda connection: recover_run(connection, counts, period))
            if gap:
                self._base |= {kind: self._base.get(kind, NOTHING) + gap[kind] for kind in gap}
                self._figures = {name: counts[name] for name in self._figures}
                self._flops, self._last_loss = counts["flops"], counts["last_loss"]

    @contextmanager
    def overhead(self, kind: OverheadKind) -> Iterator[None]:
        """Meter what happens inside as overhead, whether or not it succeeds."""
        start = self.meter.start()
        try:
            yield
        finally:
            window = self.meter.stop(start)
            with self._lock:
                self._add(kind, window)

    def save(self) -> None:
        """Make the bill durable now; on return it is on disk. Raises: BooksError, BusyError."""
        with self._lock:
            self._collect()
            self._send("running", "").result()
            self._collect()

    def close(self, status: Literal["finished", "stopped", "failed"], reason: str = "") -> None:
        """The last save. Safe to call twice: the first call counts. Raises: BooksError, BusyError."""
        with self._lock:
            if self._ended.is_set():
                return
            self._collect()
            self._send(status, reason).result()
            self._collect()
            self._ended.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close("finished")
        elif isinstance(error, KeyboardInterrupt):
            self.close("stopped", "Ctrl-C")
        else:
            self.close("failed", f"{type(error).__name__}: {error}"[:500])

    @property
    def _counts(self) -> dict[str, Any]:
        return {**self._figures, "flops": self._flops, "last_loss": self._last_loss}

    def _so_far(self) -> list[tuple[CostKind, Amount]]:
        with self._lock:
            current = self._posted if self._ended.is_set() else self._now(self.meter.totals())
            return [*self._base.items(), *current.items()]

    def _add(self, kind: CostKind, window: Window) -> None:
        self._parts[kind] = self._parts.get(kind, NOTHING) + amount_of(window)
        self._num_windows += 1

    def _now(self, seen: WatchedTotals) -> dict[CostKind, Amount]:
        """All parts of this process; `other` is the time outside all windows, and in the one still open."""
        return self._parts | {"other": seen.between + seen.running}

    def _totals(self) -> WatchedTotals:
        """What the meter has seen, at a moment at which every closed window has come into the bill."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            seen = self.meter.totals()
            if seen.num_windows <= self._num_windows or time.monotonic() >= deadline:
                return seen
            self._lock.release()
            time.sleep(0.001)
            self._lock.acquire()

    def _period(self, seen: WatchedTotals, parts: dict[CostKind, Amount], status: Status) -> dict[str, Any]:
        """This process's part of the run beside its independent meter, as a row of `periods`."""
        work = sum((amount for kind, amount in parts.items() if kind != "other"), NOTHING)
        figures = {
            "status": "open" if status == "running" else "closed",
            "energy_method": self.meter.method,
            "num_lost": seen.num_windows - self._num_windows,
        }
        return self._fixed | run_columns(seen, work, parts.get("step", NOTHING), parts["other"]) | figures

    def _begin_saving(self) -> None:
        threading.Thread(target=self._keep_saving, name="training-bill", daemon=True).start()

    def _keep_saving(self) -> None:
        """Save in the background until the bill or the books are closed, so that a kill loses little."""
        while not self._ended.wait(SAVE_EVERY_S) and not self.books.closed:
            with self._lock:
                if self._ended.is_set() or (self._in_flight is not None and not self._in_flight.done()):
                    continue
                try:
                    self._collect()
                    self._send("running", "")
                except Exception as error:
                    self.problem = str(error)

    def _collect(self) -> None:
        """Wait for a save under way; if it failed, what it held goes into the next one."""
        if self._in_flight is None:
            return
        try:
            self._in_flight.result()
            self._posted, self.problem = self._sent, None
        except TuitionError as error:
            self.problem = str(error)
        self._in_flight = None

    def _send(self, status: Status, reason: str) -> "Future[None]":
        seen = self._totals()
        now = self._now(seen)
        period = self._period(seen, now, status)
        totals = {
            kind: self._base.get(kind, NOTHING) + now.get(kind, NOTHING) for kind in {**self._base, **now}
        }
        values: dict[str, object] = {
            **self._counts,
            **self._described,
            "status": status,
            "reason": reason,
            "updated_unix_ns": time.time_ns(),
            "ended_unix_ns": None if status == "running" else time.time_ns(),
        }
        self._sent = now
        self._in_flight = self.books.write(lambda c: write_run(c, values, totals, period))
        return self._in_flight


def _teaching_ns(parts: Iterable[tuple[CostKind, Amount]]) -> int:
    return sum(amount.wall_ns for kind, amount in parts if kind not in ("data", "load"))
