"""One loaded model without a bill: prompts in, completions out. `desk/engine` is the billed one of programs.

For many clients at once there is `service`.
"""

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, Self, get_args

from tuition.books.books import open_books
from tuition.core.errors import CapacityError, RequestError
from tuition.core.progress import Progress, SilentProgress
from tuition.core.records import StepTrace
from tuition.core.workspace import Workspace, open_workspace
from tuition.engine.admission import require_room
from tuition.engine.request import Completion, Priority, Request, Sampling, TokenEvent, complete, sampling_of
from tuition.engine.runner_choice import start_runner
from tuition.engine.settings import EngineSettings
from tuition.engine.step import StepLoop
from tuition.engine.variants import Variant
from tuition.model.folder import ModelFolder, open_model
from tuition.registry.registry import Registry

Message = Mapping[str, Any]
DEFAULT_REPLY = 256
"""Most tokens of a reply where a request gives no number."""


def find_model(model: str | Path, workspace: Workspace | None = None) -> Path:
    """The path of a registered model, or of a folder or GGUF file. Raises: NotFoundError."""
    path = Path(model).expanduser()
    if isinstance(model, Path) or (path.exists() and len(path.parts) > 1):
        return path
    with open_books((workspace or open_workspace()).create()) as books:
        return Registry(workspace or open_workspace(), books).resolve(model)


_TYPES: dict[str, tuple[type, ...]] = {
    "max_tokens": (Integral, NoneType),
    "logprobs": (Integral, NoneType),
    "prompt_logprobs": (Integral, NoneType),
    "top_k": (Integral,),
    "ignore_eos": (bool,),
    "cache_salt": (str,),
    "variant": (str, NoneType),
    "priority": (str,),
}
"""Fields that are not converted: a wrong type would be found only while the model runs."""


def check_types(fields: Mapping[str, Any]) -> None:
    """Raises: RequestError naming the first field of a wrong type."""
    for name, kinds in _TYPES.items():
        value = fields.get(name, ...)
        if value is ... or (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))):
            continue
        raise RequestError(name, f"has a wrong type: {type(value).__name__}")
    if fields.get("priority", "batch") not in get_args(Priority):
        raise RequestError("priority", f"wanted one of {', '.join(get_args(Priority))}")


class Engine:
    """One loaded model. Not thread-safe: one call at a time. Close it, or use it with `with`."""

    def __init__(
        self,
        model: str | Path | ModelFolder,
        *,
        settings: EngineSettings | None = None,
        workspace: Workspace | None = None,
        progress: Progress | None = None,
        on_trace: Callable[[StepTrace], None] | None = None,
        on_ends: Callable[[list[TokenEvent]], object] | None = None,
    ) -> None:
        """Load `model`. `on_trace` gets every step; `on_ends` gets, before anybody else, the last events
        of the requests that end together.

        Raises: NotFoundError, ModelError, CapacityError, SettingsError.
        """
        self.settings = settings or EngineSettings()
        self.folder = model if isinstance(model, ModelFolder) else open_model(find_model(model, workspace))
        opened = start_runner(self.folder, self.settings, progress)
        self.tokenizer = self.folder.tokenizer()
        self.runner, self.choice = opened()
        self.loop = StepLoop(self.runner, self.tokenizer, self.settings)
        self._on_trace, self._on_ends = on_trace, on_ends
        self.id_prefix = "request"
        """Ids of requests begin with it; who bills them makes it one that no other process has."""
        self.default_variant: str | None = None
        """Of requests that name none."""
        self._ids = itertools.count(1)

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and reply together."""
        return self.folder.shape.context_length

    # ---- what people call

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        max_tokens: int | None = None,
        progress: Progress | None = None,
        **fields: Any,
    ) -> list[Completion]:
        """Continue each prompt (text, or token ids); completions in the order of the prompts.

        `max_tokens`: None takes what fits the context, at most 256. `fields`: any of `Sampling` and
        `Request`, such as temperature, top_p, seed, stop, logprobs; what is left out is as the model's own
        defaults say (`folder.generation`). With a seed, prompt i draws with seed + i.
        Raises: RequestError, CapacityError, before anything is computed.
        """
        requests = []
        for index, prompt in enumerate([prompts] if isinstance(prompts, str) else prompts):
            ids = self.encode(prompt) if isinstance(prompt, str) else prompt
            requests.append(self.request(ids, index=index, max_tokens=max_tokens, **fields))
        return self._all(requests, progress)

    def chat(
        self, messages: Sequence[Message], *, max_tokens: int | None = None, **fields: Any
    ) -> Completion:
        """Answer one conversation, `[{"role": "user", "content": "..."}]`; fields as in `generate`."""
        self._require_room(messages)
        ids = self.tokenizer.render_chat(messages)
        return self._all([self.request(ids, max_tokens=max_tokens, **fields)], None)[0]

    def stream(
        self, prompt: str | Sequence[int] | Sequence[Message], *, max_tokens: int | None = None, **fields: Any
    ) -> Iterator[TokenEvent]:
        """The events of one prompt (text, token ids or messages) as they come; leaving early cancels it."""
        request = self.request(self.encode(prompt), max_tokens=max_tokens, **fields)
        self.loop.submit(request)
        try:
            while True:
                for event in self._step():
                    yield event
                    if event.finish_reason is not None:
                        return
        finally:
            self._clear([request])

    # ---- parts

    def encode(self, prompt: str | Sequence[int] | Sequence[Message]) -> list[int]:
        """Token ids of a text, of ids themselves, or of a conversation by the model's template.

        Raises: RequestError for anything else; nothing is left out or rounded. CapacityError for text that
        cannot fit.
        """
        if isinstance(prompt, str):
            require_room(self.tokenizer, [prompt], self.context_length)
            return self.tokenizer.encode(prompt)
        try:
            parts: list[Any] = list(prompt)
            messages = [part for part in parts if isinstance(part, Mapping)]
            if parts and len(messages) == len(parts):
                self._require_room(messages)
                return self.tokenizer.render_chat(messages)
            if not isinstance(prompt, Mapping) and bool not in map(type, parts):
                return [operator.index(part) for part in parts]
        except TypeError:
            pass
        raise RequestError("prompt", "wanted a text, token ids, or messages")

    def request(
        self, prompt: Sequence[int], *, index: int = 0, max_tokens: int | None = None, **fields: Any
    ) -> Request:
        """A request, ended by the model's own stop ids. Raises: RequestError, CapacityError."""
        known = set(Request.__dataclass_fields__) - {"id", "prompt", "max_tokens", "sampling"}
        unknown = set(fields) - known - set(Sampling.__dataclass_fields__)
        if unknown:
            raise RequestError(min(unknown), "is not a field of a request")
        check_types(fields | {"max_tokens": max_tokens})
        sampling = {name: fields.pop(name) for name in list(fields) if name in Sampling.__dataclass_fields__}
        asked: dict[str, Any] = {
            "stop_ids": self.tokenizer.eos_ids, "priority": "batch", "variant": self.default_variant,
        } | fields  # fmt: skip
        try:
            ids = tuple(int(token) for token in prompt)
            if max_tokens is None:
                max_tokens = self._default_reply(len(ids))
            if sampling.get("seed") is not None:
                sampling["seed"] = int(sampling["seed"]) + index
            if sampling.get("logit_bias"):
                pairs = sampling["logit_bias"]
                pairs = pairs.items() if isinstance(pairs, Mapping) else pairs
                sampling["logit_bias"] = tuple((int(token), float(bias)) for token, bias in pairs)
            for name in ("stop", "stop_ids"):
                value = asked.get(name, ())
                asked[name] = (value,) if isinstance(value, (str, int)) else tuple(value)
            drawn = sampling_of(sampling, self.folder.generation)
            request = Request(f"{self.id_prefix}-{next(self._ids)}", ids, max_tokens, drawn, **asked)
            size = self.folder.shape.vocab_size  # the model's own list may say what it likes
            if "stop_ids" in fields and not all(0 <= token < size for token in request.stop_ids):
                raise RequestError(
                    "stop_ids", f"holds ids outside the vocabulary, which has 0 to {size - 1:,}"
                )
            self.loop.validate(request)
        except (TypeError, ValueError, OverflowError) as error:
            raise RequestError("request", f"a field has a wrong type: {error}") from error
        return request

    def _require_room(self, messages: Sequence[Message]) -> None:
        """Raises: CapacityError for a conversation that cannot fit."""
        require_room(self.tokenizer, (each.get("content") for each in messages), self.context_length)

    def _default_reply(self, num_prompt: int) -> int:
        room = self.context_length - num_prompt
        if room <= 0:
            raise CapacityError(
                "the prompt and one token",
                need=num_prompt + 1,
                free=self.context_length,
                unit="tokens of context",
                way_out="shorten the prompt",
            )
        return min(DEFAULT_REPLY, room)

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they end. Requests are taken as there is room for them; leaving early cancels the
        rest.

        Raises: as `StepLoop.submit` for the request at fault; those before it are cancelled.
        """
        source, inside = iter(requests), {}
        most = self.settings.max_batch + min(self.settings.max_batch, self.settings.max_waiting)
        more = True
        try:
            while more or inside:
                while more and len(inside) < most:
                    request = next(source, None)
                    if request is None:
                        more = False
                        break
                    self.loop.submit(request)
                    inside[request.id] = (request, [])
                for event in self._step():
                    inside[event.request_id][1].append(event)
                    if event.finish_reason is not None:
                        yield complete(inside.pop(event.request_id)[1])
        finally:
            self._clear([request for request, _ in inside.values()])

    def _all(self, requests: list[Request], progress: Progress | None) -> list[Completion]:
        done = {}
        total = sum(request.max_tokens for request in requests)
        with (progress or SilentProgress()).task("generate", total, "tokens") as task:
            for completion in self.run(requests):
                done[completion.request_id] = completion
                task.advance(completion.num_generated, f"{len(done):,} of {len(requests):,} replies")
        return [done[request.id] for request in requests]

    def _step(self) -> list[TokenEvent]:
        events, trace = self.loop.step()
        if trace is not None and self._on_trace is not None:
            self._on_trace(trace)
        self._tell_ends(events)
        return events

    def _tell_ends(self, events: Iterable[TokenEvent]) -> None:
        if self._on_ends is not None:
            ends = [event for event in events if event.finish_reason is not None]
            if ends:
                self._on_ends(ends)

    def _clear(self, requests: Iterable[Request]) -> None:
        """Cancel what is still inside; it has cost something, too."""
        for request in requests:
            self.loop.cancel(request.id)
        self._tell_ends(self.loop.take_events())

    def swap_weights(self, model: ModelFolder) -> None:
        """Compute with other weights of the same shape from the next step on, also those in memory
        (`model/memory`); see `StepLoop.swap_weights`. Tokenizer and sampling defaults stay. Raises: as there.
        """
        trace = self.loop.swap_weights(model)
        if self._on_trace is not None:
            self._on_trace(trace)

    def add_variant(self, name: str, variant: Variant) -> None:
        """Let requests name this variant of the weights: `generate(..., variant=name)`.

        Raises: SettingsError, ShapeError.
        """
        self.loop.add_variant(name, variant)

    def remove_variant(self, name: str) -> None:
        """Forget a variant. Raises: NotFoundError; BusyError while requests use it."""
        self.loop.remove_variant(name)

    def close(self) -> None:
        """Free the model and its cache."""
        self.runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
