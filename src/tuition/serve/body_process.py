"""The process that reads large bodies and encodes large texts, and what the server asks of it.

In: a raw body and its limits.  Out: the request, or the error of the caller. Parsing and validating a million
values in the serving process would hold its interpreter, and every stream, for half a second. Taking the ids
of a text of 4 MB would hold it for a tenth of a second.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any, TypeVar

from tuition.core.worker import Worker
from tuition.serve.bounds import BodyLimits
from tuition.serve.errors import ApiError, overloaded
from tuition.serve.protocol import Common, read_request
from tuition.tokenizer.tokenizer import Tokenizer

_WORKER = "tuition.serve.body_worker"
_WALL_S = 30.0
"""For one body; a full one takes less than a second where a core is free."""
_PAUSE_S = 0.0005
"""After each list of token ids: other threads get the interpreter meanwhile."""

Body = TypeVar("Body", bound=Common)


class BodyProcess:
    """A process that is started by the first large body and again when it has ended. One body at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._tokenizers = set[str]()
        """Those that the process has."""

    def read(self, kind: type[Body], raw: bytes, limits: BodyLimits) -> Body:
        """The body as a `kind`. Raises: ApiError with what the checks of a small body would say."""
        models = {name: astuple(model) for name, model in limits.models.items()}
        job = {"kind": kind.__name__, "max_sequences": limits.max_sequences, "models": models}
        fields, lists = self._ask(job, raw)
        request = read_request(kind, fields)
        return request.model_copy(update={"prompt": tuple(_load_each(lists))}) if lists else request

    def fields(self, raw: bytes) -> dict[str, Any]:
        """The JSON object in `raw`. Raises: ApiError, also if it holds too many values beside `tokens`."""
        fields, lists = self._ask({"kind": "fields"}, raw)
        tokens = list[int]()
        for some in _load_each(lists):
            tokens += some
        return fields | ({"tokens": tokens} if lists else {})

    def encode(self, tokenizer: Tokenizer, text: str, add_bos: bool | None) -> tuple[int, bytes]:
        """The number of `tokenizer.encode`'s ids, and the ids with commas between them."""
        fields, texts = self._ask({"kind": "ids", "add_bos": add_bos}, text.encode(), tokenizer)
        return fields["count"], b"".join(texts)

    def close(self) -> None:
        """End the process. A body that it reads meanwhile is answered with an error."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            with self._lock:  # who waits for its answer sees the end of it first
                worker.close()

    def _ask(
        self, job: dict[str, Any], raw: bytes, tokenizer: Tokenizer | None = None
    ) -> tuple[dict[str, Any], list[bytes]]:
        with self._lock:
            for _ in range(2):  # the process may have been killed before this body, or because of it
                worker = self._worker
                if worker is None or not worker.usable:
                    worker, self._tokenizers = Worker("-m", _WORKER), set()
                    self._worker = worker
                try:
                    if tokenizer is not None:
                        job = job | {"tokenizer": self._give(worker, tokenizer)}
                    head, *parts = worker.ask(json.dumps(job).encode(), raw, wall_s=_WALL_S)
                    break
                except (EOFError, TimeoutError):
                    if self._worker is not worker:  # closed
                        raise overloaded(
                            "the server is stopping; try another one, or again later", 5
                        ) from None
            else:
                raise overloaded("the process that reads large bodies ended twice over this one", 1)
        answer = json.loads(head)
        if "bug" in answer:
            raise RuntimeError(f"reading a large body failed with {answer['bug']}")
        if "error" in answer:
            raise ApiError(**answer["error"])
        return answer["fields"], parts

    def _give(self, worker: Worker, tokenizer: Tokenizer) -> str:
        """The name by which the process knows a tokenizer, after it has got it."""
        settings = {name: getattr(tokenizer, name) for name in ("bos_id", "eos_ids", "add_bos")}
        name = json.dumps([tokenizer.digest, settings])
        if name not in self._tokenizers:
            job = {"kind": "tokenizer", "tokenizer": name, "settings": settings}
            list(worker.ask(json.dumps(job).encode(), tokenizer.to_json().encode(), wall_s=_WALL_S))
            self._tokenizers.add(name)
        return name


def _load_each(parts: list[bytes]) -> Iterator[tuple[int, ...]]:
    for part in parts:
        yield tuple(json.loads(part))
        time.sleep(_PAUSE_S)
