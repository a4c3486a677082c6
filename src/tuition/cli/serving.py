"""Models opened for use: runner, engine and account for each, over one set of books; closed in order.

`serve`, `chat` and `generate` stand on this. Loading is metered as overhead.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuition.books.books import Books
from tuition.core.errors import NotFoundError, TuitionError
from tuition.core.progress import Progress
from tuition.core.workspace import Workspace
from tuition.engine.engine import Engine
from tuition.engine.request import Completion, Request, TokenEvent, complete
from tuition.engine.service import EngineService
from tuition.engine.settings import EngineSettings
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import open_meter
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import record_rate
from tuition.model.folder import ModelFolder, open_model
from tuition.registry.registry import Registry
from tuition.serve.context import ServedModel
from tuition.spec.machine import Machine


class BilledEngine(Engine):
    """An engine that hands each reply that has ended to `on_reply` before it gives it out."""

    on_reply: Callable[[Completion], object] = staticmethod(lambda completion: None)

    def _step(self) -> list[TokenEvent]:
        return self._billed(super()._step())

    def _clear(self, requests: Iterable[Request]) -> list[TokenEvent]:
        return self._billed(super()._clear(requests))  # what Ctrl-C ends has cost something, too

    def _billed(self, events: list[TokenEvent]) -> list[TokenEvent]:
        for event in events:
            if event.finish_reason is not None:
                self.on_reply(complete([event]))
        return events


@dataclass
class OpenModel:
    """One loaded model and the account that knows what its steps cost."""

    name: str
    version: int | None
    """In the registry; None for a folder or file that is not registered."""
    folder: ModelFolder
    engine: BilledEngine
    account: EngineAccount
    rate_id: int
    periods: Periods


def find(reference: str, workspace: Workspace, books: Books) -> tuple[str, int | None, Path]:
    """Name, version and path of a registered model, or of a folder or GGUF file. Raises: NotFoundError."""
    registry = Registry(workspace, books)
    try:
        found = registry.get(reference)
        return found.name, found.version, found.path
    except NotFoundError:
        path = registry.resolve(reference)
        stem = path.stem if path.is_file() else path.resolve().name
        return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._") or "model", None, path


@contextmanager
def open_one(
    reference: str,
    *,
    workspace: Workspace,
    books: Books,
    machine: Machine,
    settings: EngineSettings,
    progress: Progress,
) -> Iterator[OpenModel]:
    """Load one model; its last period is written and it is closed at the end.

    Raises: NotFoundError, ModelError, CapacityError, SettingsError.
    """
    name, version, path = find(reference, workspace, books)
    folder = open_model(path)
    rate_id = record_rate(books, machine)
    account = EngineAccount(folder.shape, machine, open_meter(machine))
    with Periods(books, account, rate_id, name, version) as periods:
        with account.loading():
            engine = BilledEngine(
                folder, settings=settings, workspace=workspace, progress=progress, on_trace=account.add
            )
        account.runs_on(engine.runner.weight_bytes, engine.runner.kv_bytes_per_value)
        engine.loop.busy = account.engine_marks()
        try:
            yield OpenModel(name, version, folder, engine, account, rate_id, periods)
        finally:
            engine.close()


@contextmanager
def open_served(
    references: Sequence[str],
    *,
    workspace: Workspace,
    books: Books,
    machine: Machine,
    settings: EngineSettings,
    progress: Progress,
) -> Iterator[dict[str, ServedModel]]:
    """Load models and start an engine thread for each; the machine's cost is divided among them.

    Raises: TuitionError if two of them would answer to one name, and as `open_one`.
    """
    share = machine.divided(len(references)) if len(references) > 1 else machine
    served: dict[str, ServedModel] = {}
    with ExitStack() as stack:
        for reference in references:
            opened = stack.enter_context(
                open_one(
                    reference,
                    workspace=workspace,
                    books=books,
                    machine=share,
                    settings=settings,
                    progress=progress,
                )
            )
            if opened.name in served:
                raise TuitionError(f"two models would answer as {opened.name!r}; serve one of them")
            service = EngineService(opened.engine.loop, opened.account.add, name=f"engine {opened.name}")
            stack.callback(service.stop)
            served[opened.name] = served_model(opened, service)
        yield served


def served_model(opened: OpenModel, service: EngineService) -> ServedModel:
    """What the server is given of an open model."""
    return ServedModel(
        name=opened.name,
        version=opened.version,
        service=service,
        tokenizer=opened.engine.tokenizer,
        shape=opened.folder.shape,
        account=opened.account,
        weights_digest=opened.engine.runner.weights_digest(),
        runner=opened.engine.runner,
        defaults=opened.folder.generation,
        rate_id=opened.rate_id,
        periods=opened.periods,
    )
