"""The engine of Python programs, commands and the server: one loaded model whose requests are billed.

    from tuition import Engine

    with Engine("smollm2") as engine:
        reply = engine.generate(["Once upon a time"], max_tokens=40)[0]
        print(reply.text, engine.cost_of(reply.request_id).total.usd)

The receipts are in the books of the workspace: `tuition bill request`. `engine/engine.Engine` is the same
without books.
"""

import atexit
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tuition.books.books import Books, open_books
from tuition.core.errors import NotFoundError, TuitionError
from tuition.core.held_signals import signals_held
from tuition.core.progress import Progress
from tuition.core.request_record import RequestCost
from tuition.core.workspace import Workspace, open_workspace
from tuition.desk.desk import Desk, ModelIdentity
from tuition.engine import engine as plain
from tuition.engine.request import Request, TokenEvent
from tuition.engine.service import EngineService
from tuition.engine.settings import EngineSettings
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import open_meter
from tuition.model.folder import ModelFolder, open_model
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
        """Load `model`: a registered name, a folder, a GGUF file. Loading is metered as overhead.

        `books`: those of the workspace if left out, closed with the engine. `machine`: what an hour of it
        costs and how much power it takes; detected if left out.

        Raises: NotFoundError, ModelError, CapacityError, SettingsError, BooksError.
        """
        settings = settings or EngineSettings()
        with ExitStack() as stack:
            workspace = (workspace or open_workspace()).create()
            books = books or stack.enter_context(open_books(workspace))
            identity, folder = identify(model, Registry(workspace, books))
            machine = machine or detect_machine(device=device_kind(settings.device), workspace=workspace)
            self.account = account = EngineAccount(folder.shape, machine, open_meter(machine))
            self.desk = stack.enter_context(Desk(books, account, identity))
            with account.loading():
                super().__init__(
                    folder, settings=settings, progress=progress, on_trace=account.add, on_end=self._settle
                )
            stack.callback(super().close)
            account.runs_on(self.runner.weight_bytes, self.runner.kv_bytes_per_value)
            self.loop.busy = account.engine_marks()
            self.desk.serves(self.runner.weights_digest)
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
        """The engine in a thread of its own, for several clients. Its user settles each reply with `desk`."""
        return EngineService(self.loop, self.account.add, name=f"engine {self.name}")

    def swap_weights(self, model: ModelFolder) -> None:
        """As the plain engine's; receipts name the digest of the new weights."""
        super().swap_weights(model)
        self.desk.serves(self.runner.weights_digest)

    def close(self) -> None:
        """Free the model, book the last period, close books that were opened here. Raises: BooksError."""
        atexit.unregister(self._close_at_exit)
        self._open.close()

    def _close_at_exit(self) -> None:
        """What a program did not close is closed before its books are; a forked child has no engine."""
        if os.getpid() == self._pid:
            self.close()

    def _step(self) -> list[TokenEvent]:
        """Ctrl-C comes between two steps: each step is billed whole, and so is each reply that it ends."""
        with signals_held():
            return super()._step()

    def _clear(self, requests: Iterable[Request]) -> None:
        with signals_held():
            super()._clear(requests)

    def _settle(self, event: TokenEvent) -> None:
        self._costs[event.request_id] = self.desk.settle(event)
        if len(self._costs) > MOST_COSTS:
            self._costs.popitem(last=False)


def identify(model: str | Path | ModelFolder, registry: Registry) -> tuple[ModelIdentity, ModelFolder]:
    """Name and version for the bill, and the opened model. Raises: NotFoundError, ModelError."""
    if isinstance(model, ModelFolder):
        return ModelIdentity(_name_of(model.path), None), model
    path = Path(model).expanduser()
    if not isinstance(model, Path) and not (path.exists() and len(path.parts) > 1):
        try:
            found = registry.get(model)
            return ModelIdentity(found.name, found.version), open_model(found.path)
        except NotFoundError:
            path = registry.resolve(model)
    return ModelIdentity(_name_of(path), None), open_model(path)


def _name_of(path: Path) -> str:
    stem = path.stem if path.is_file() else path.resolve().name
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._") or "model"


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
