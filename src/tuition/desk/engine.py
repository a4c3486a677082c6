"""The engine of Python programs, commands and the server: one loaded model whose requests are billed.

    from tuition import Engine

    with Engine("smollm2") as engine:
        reply = engine.generate(["Once upon a time"], max_tokens=40)[0]
        print(reply.text, engine.cost_of(reply.request_id).total.usd)

An adapter is opened with its base, `Engine("support")`, or beside others: `engine.add_adapter("support")`,
then `engine.generate(..., variant="support")`. The receipts are in the books of the workspace:
`tuition bill request`. `engine/engine.Engine` is the same without books.
"""

import atexit
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tuition.books.books import Books, open_books
from tuition.core.errors import NotFoundError, TuitionError
from tuition.core.held_signals import HeldSignals
from tuition.core.progress import Progress
from tuition.core.request_record import RequestCost
from tuition.core.workspace import Workspace, open_workspace
from tuition.desk.desk import Desk, Ending
from tuition.desk.references import LoadedAdapter, find_reference, load_adapter
from tuition.engine import engine as plain
from tuition.engine.request import Completion, Request, TokenEvent
from tuition.engine.service import EngineService
from tuition.engine.settings import EngineSettings
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import open_meter
from tuition.model.folder import ModelFolder
from tuition.registry.registry import Registry
from tuition.runtime.cores import device_kind
from tuition.spec.machine import Machine, detect_machine

MOST_COSTS = 10_000
"""Replies whose cost an engine remembers; the books have all."""


class Engine(plain.Engine):
    """One loaded model. Not thread-safe: one call at a time. Close it, or use it with `with`; one that is
    still open when the program ends is closed then."""

    def __init__(
        self,
        model: str | Path | ModelFolder,
        *,
        settings: EngineSettings | None = None,
        workspace: Workspace | None = None,
        progress: Progress | None = None,
        books: Books | None = None,
        machine: Machine | None = None,
    ) -> None:
        """Load `model`: a registered name, of an adapter too, a folder, a GGUF file. Loading is metered as
        overhead.

        `books`: those of the workspace if left out, closed with the engine. `machine`: what an hour of it
        costs and how much power it takes; detected if left out.

        Raises: NotFoundError, ModelError, CapacityError, SettingsError, BooksError.
        """
        settings, self._signals = settings or EngineSettings(), HeldSignals()
        with ExitStack() as stack:
            workspace = (workspace or open_workspace()).create()
            books = books or stack.enter_context(open_books(workspace))
            self.registry = Registry(workspace, books)
            found = find_reference(model, self.registry)
            folder = found.folder
            machine = machine or detect_machine(device=device_kind(settings.device), workspace=workspace)
            self.account = account = EngineAccount(folder.shape, machine, open_meter(machine))
            loaded = None if found.adapter is None else load_adapter(found.adapter, folder)
            identity = found.base if loaded is None else loaded.identity
            self.desk = stack.enter_context(
                Desk(books, account, identity, None if loaded is None else loaded.digest)
            )
            with account.loading():
                super().__init__(
                    folder, settings=settings, progress=progress, on_trace=account.add, on_ends=self._settle
                )
            stack.callback(super().close)
            account.runs_on(self.runner.weight_bytes, self.runner.kv_bytes_per_value)
            self.loop.busy = account.engine_marks()
            self.desk.serves(self.runner.weights_digest)
            self.base = found.base
            self._desks: dict[str | None, Desk] = {}
            if loaded is not None:
                loaded.require_base(folder, self._has_digest)
                self.default_variant = loaded.identity.name
                self.add_variant(self.default_variant, loaded.variant)
                self._desks = {self.default_variant: self.desk, None: self.desk.beside(found.base)}
            self._open, self._pid = stack.pop_all(), os.getpid()
        atexit.register(self._close_at_exit)
        begun = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        self.id_prefix = f"local-{begun}-{secrets.token_hex(3)}-request"
        self._costs: OrderedDict[str, RequestCost] = OrderedDict()

    @property
    def name(self) -> str:
        """Name of the model in receipts and statements."""
        return self.desk.model.name

    def cost_of(self, request_id: str) -> RequestCost:
        """The cost of one of the latest replies. Raises: NotFoundError for any other request."""
        if request_id not in self._costs:
            raise NotFoundError("reply of this engine", request_id, tuple(self._costs)[-3:])
        return self._costs[request_id]

    def service(self) -> EngineService:
        """The engine in a separate thread, for several clients. Its user settles each reply with `desk`, or
        that of its adapter."""
        self.desk.base_digest  # noqa: B018 (now, while no other thread may swap the weights)
        return EngineService(self.loop, self.account.add, name=f"engine {self.name}")

    def desk_of(self, end: Ending) -> Desk:
        """Who bills a reply of this engine: the desk of the adapter that made it, or of the base."""
        return self._desks.get(end.variant, self.desk)

    def add_adapter(self, reference: str) -> Desk:
        """Let requests name a registered adapter as their variant: `generate(..., variant="support")`.

        Receipts and statements name the adapter. Not while `service` runs: see `prepare_adapter`.
        Raises: NotFoundError, ModelError, SettingsError.
        """
        loaded = self.prepare_adapter(reference)
        self.add_variant(loaded.identity.name, loaded.variant)
        return self.admit_adapter(loaded)

    def prepare_adapter(self, reference: str) -> LoadedAdapter:
        """Read a registered adapter and check that it is one of this engine's base. Any thread may call it.

        Raises: NotFoundError, ModelError, SettingsError.
        """
        loaded = load_adapter(self.registry.get(reference), self.folder)
        loaded.require_base(self.folder, self._has_digest)
        return loaded

    def admit_adapter(self, loaded: LoadedAdapter) -> Desk:
        """The desk of an adapter whose variant was added. Raises: BooksError, BusyError."""
        desk = self.desk.beside(loaded.identity, loaded.digest)
        self._desks[loaded.identity.name] = desk
        return desk

    def dismiss_adapter(self, name: str) -> None:
        """Forget the desk of an adapter whose variant was removed."""
        self._desks.pop(name, None)

    def remove_variant(self, name: str) -> None:
        """Forget a variant, or an adapter. Raises: NotFoundError; BusyError while requests use it."""
        super().remove_variant(name)
        self.dismiss_adapter(name)

    def _has_digest(self, digest: str) -> bool:
        """Whether these are the weights in use. A runner that rounds has another digest than their file."""
        swapped = self.loop.swapped_digest
        if swapped is not None:
            return digest == swapped
        return digest == self.desk.base_digest or digest == self.folder.digest()

    def close(self) -> None:
        """Free the model, book the last period, close books that were opened here. Raises: BooksError."""
        atexit.unregister(self._close_at_exit)
        self._open.close()

    def _close_at_exit(self) -> None:
        """What a program did not close is closed before its books are; a forked child has no engine."""
        if os.getpid() == self._pid:
            self.close()

    def _all(self, requests: list[Request], progress: Progress | None) -> list[Completion]:
        """Handlers are put in place once: between these steps there is no code of the caller's."""
        with self._signals:
            return super()._all(requests, progress)

    def _step(self) -> list[TokenEvent]:
        """Ctrl-C comes between two steps: each step is billed whole, and so is each reply that it ends."""
        with self._signals:
            return super()._step()

    def _clear(self, requests: Iterable[Request]) -> None:
        with self._signals:
            super()._clear(requests)

    def _settle(self, ends: Iterable[TokenEvent]) -> None:
        """All rows are queued before the first is waited for: they share a commit."""
        with ExitStack() as waits:  # for each one, also where another fails
            for end in ends:
                waits.callback(self._keep_cost, end.request_id, self.desk_of(end).begin_settle(end))

    def _keep_cost(self, request_id: str, settled: Callable[[], RequestCost]) -> None:
        self._costs[request_id] = settled()
        if len(self._costs) > MOST_COSTS:
            self._costs.popitem(last=False)


@contextmanager
def open_engines(
    references: Sequence[str],
    *,
    workspace: Workspace,
    books: Books,
    machine: Machine,
    settings: EngineSettings,
    progress: Progress,
) -> Iterator[list[Engine]]:
    """Load several models; the cost of the machine is divided equally among them.

    Raises: TuitionError if two of them would answer to one name, and as `Engine`.
    """
    share = machine.divided(len(references)) if len(references) > 1 else machine
    engines: list[Engine] = []
    with ExitStack() as stack:
        for reference in references:
            engine = Engine(
                reference,
                settings=settings,
                workspace=workspace,
                progress=progress,
                books=books,
                machine=share,
            )
            stack.callback(engine.close)
            if engine.name in [other.name for other in engines]:
                raise TuitionError(f"two models would answer as {engine.name!r}; serve one of them")
            engines.append(engine)
        yield engines
