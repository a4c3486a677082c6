"""What the server is given (running models, the books, settings, the key), and the gate that it closes when
it stops.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from tuition.books.books import Books
from tuition.core.errors import NotFoundError
from tuition.desk.desk import Desk
from tuition.desk.engine import Engine
from tuition.engine.batch import Runner
from tuition.engine.request import Request, TokenEvent
from tuition.model.generation import GenerationDefaults
from tuition.serve.body_process import BodyProcess
from tuition.serve.bounds import BodyLimits, ModelLimits
from tuition.serve.errors import overloaded
from tuition.serve.settings import ServeSettings, read_api_key
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer


class EventStream(Protocol):
    """The events of one request, as `EngineService.submit` returns them."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]: ...

    def cancel(self) -> None:
        """Stop generating within a step; the stream then ends with finish_reason `cancelled`."""
        ...


class Service(Protocol):
    """What the server asks of `engine.service.EngineService`."""

    def submit(self, request: Request) -> EventStream: ...

    def stats(self) -> Any:
        """A `ServiceStats`, or something with the figures of one that are looked for."""
        ...


@dataclass
class ServedModel:
    """One model that answers."""

    desk: Desk
    """Bills its requests; knows its name and version."""
    service: Service
    tokenizer: Tokenizer
    shape: ModelShape
    weights_digest: str
    """As recorded when the weights were loaded."""
    runner: Runner | None = None
    stop_ids: tuple[int, ...] | None = None
    """Token ids that end a reply; the tokenizer's own when None."""
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    """Sampling of calls that do not name their own."""
    created_unix_s: int = field(default_factory=lambda: int(time.time()))
    engine: Engine | None = None
    """What adapters can be added to."""
    variant: str | None = None
    """The adapter that its requests name."""
    parent: str | None = None
    """The base of an adapter."""

    @classmethod
    def of(cls, engine: Engine, service: Service, desk: Desk | None = None) -> "ServedModel":
        """A loaded model, and its engine in a separate thread. `desk`: of an adapter that was added."""
        variant = engine.default_variant if desk is None else desk.model.name
        desk = desk or engine.desk
        return cls(
            desk=desk,
            service=service,
            tokenizer=engine.tokenizer,
            shape=engine.folder.shape,
            weights_digest=desk.weights_digest or "",
            runner=engine.runner,
            defaults=engine.folder.generation,
            engine=engine,
            variant=variant,
            parent=None if variant is None else engine.base.name,
        )

    @property
    def digest(self) -> str:
        """Of the weights in use: those that were loaded, until others are swapped in."""
        swapped = getattr(self.service.stats(), "swapped_digest", None)
        return self.weights_digest if swapped is None else self.desk.digest_with(swapped) or ""

    @property
    def name(self) -> str:
        """As clients name it."""
        return self.desk.model.name

    @property
    def context_length(self) -> int:
        """Most tokens that prompt and reply may have together."""
        if self.runner is None:
            return self.shape.context_length
        return min(self.shape.context_length, self.runner.num_blocks * self.runner.block_size)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end a reply."""
        return tuple(self.tokenizer.eos_ids) if self.stop_ids is None else self.stop_ids


class Gate:
    """Open, draining (what runs may finish, nothing new), or aborting (what runs is ended with an error)."""

    def __init__(self) -> None:
        self.draining = False
        self.aborting = False
        self.retry_after_s = 5.0
        self._on_abort: set[Callable[[], None]] = set()
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def num_calls(self) -> int:
        """Calls whose reply is not complete."""
        return len(self._on_abort)

    def begin_drain(self, retry_after_s: float = 5.0) -> None:
        """Take no new work. Safe in a signal handler."""
        self.draining, self.retry_after_s = True, retry_after_s

    def abort(self) -> None:
        """End everything under way. Call on the server's event loop."""
        self.draining = self.aborting = True
        for callback in list(self._on_abort):
            callback()

    def admit(self) -> None:
        """Raises: ApiError while draining."""
        if self.draining:
            raise overloaded("the server is stopping; try another one, or again later", self.retry_after_s)

    def on_abort(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called on abort; returns what takes it off again."""
        self._on_abort.add(callback)
        return lambda: self._on_abort.discard(callback)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold on to work that must end even when its client has gone: its cost is not yet in the books."""
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def settle(self, timeout_s: float) -> int:
        """Wait until everything that was generated is billed; returns how many did not make it in time."""
        if not self._settling:
            return 0
        _, pending = await asyncio.wait(set(self._settling), timeout=timeout_s)
        return len(pending)


@dataclass
class ServeContext:
    """Everything `create_app` needs. The server closes none of it; its creator does."""

    models: Mapping[str, ServedModel]
    books: Books
    settings: ServeSettings = field(default_factory=ServeSettings)
    api_key: str | None = field(default_factory=read_api_key, repr=False)
    gate: Gate = field(default_factory=Gate, repr=False)
    lane: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "large bodies"), repr=False)
    """Where large bodies are read and encoded, one after the other."""
    bodies: BodyProcess = field(default_factory=BodyProcess, repr=False)
    """Parses and validates the largest ones; the server ends it when it stops."""

    @property
    def body_limits(self) -> BodyLimits:
        """What bounds a large body."""
        models = {
            name: ModelLimits(model.context_length, model.tokenizer.longest_token)
            for name, model in self.models.items()
        }
        return BodyLimits(self.settings.max_sequences, models)

    def model(self, name: str) -> ServedModel:
        """The model of that name. Raises: NotFoundError."""
        try:
            return self.models[name]
        except KeyError:
            raise NotFoundError("model", name, tuple(self.models)) from None

    def add(self, model: ServedModel) -> None:
        """Let calls name one more model. Readers in other threads keep the table that they have."""
        self.models = {**self.models, model.name: model}

    def remove(self, name: str) -> None:
        """Let no further call name this model."""
        self.models = {one: model for one, model in self.models.items() if one != name}
