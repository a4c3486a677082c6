"""A server in a thread of the test's own process, run as `tuition serve` runs it."""

import threading
from dataclasses import dataclass
from queue import SimpleQueue

from tuition.serve.context import ServeContext
from tuition.serve.server import run_server

START_TIMEOUT_S = 60.0


@dataclass
class RunningServer:
    url: str
    context: ServeContext
    thread: threading.Thread

    def stop(self) -> None:
        """Drain and end the thread; may be called again."""
        self.context.gate.begin_drain()
        settings = self.context.settings
        self.thread.join(settings.drain_seconds + settings.books_timeout_seconds + 5)
        assert not self.thread.is_alive(), "the server does not end"

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def start_server(context: ServeContext) -> RunningServer:
    """Returns when it answers."""
    url: SimpleQueue[str] = SimpleQueue()
    thread = threading.Thread(
        target=run_server, args=(context,), kwargs={"on_ready": url.put}, name="server", daemon=True
    )
    thread.start()
    return RunningServer(url.get(timeout=START_TIMEOUT_S), context, thread)
