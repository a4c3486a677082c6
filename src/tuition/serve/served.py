"""Models that are opened to be served: each has an engine in a separate thread; closed in order."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tuition.books.books import Books
from tuition.core.progress import Progress
from tuition.core.workspace import Workspace
from tuition.desk.engine import open_engines
from tuition.engine.settings import EngineSettings
from tuition.serve.adapters import serve_adapter
from tuition.serve.context import ServedModel
from tuition.spec.machine import Machine


@contextmanager
def open_served(
    references: Sequence[str],
    *,
    workspace: Workspace,
    books: Books,
    machine: Machine,
    settings: EngineSettings,
    progress: Progress,
    adapters: Sequence[str] = (),
) -> Iterator[dict[str, ServedModel]]:
    """Load models and start their engines; the cost of the machine is divided among them.

    `adapters`: registered names; each is added to the engine of its base.
    Raises: TuitionError if two of them would answer to one name, and as `desk.engine.Engine`.
    """
    with ExitStack() as stack:
        engines = stack.enter_context(
            open_engines(
                references,
                workspace=workspace,
                books=books,
                machine=machine,
                settings=settings,
                progress=progress,
            )
        )
        served = {}
        for engine in engines:
            service = engine.service()
            stack.callback(service.stop)
            served[engine.name] = ServedModel.of(engine, service)
        for reference in adapters:
            adapter = serve_adapter(served.values(), reference)
            served[adapter.name] = adapter
        yield served
