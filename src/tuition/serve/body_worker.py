"""Parses, bounds and validates large bodies and encodes large texts, in a process of its own.

Run as a program by `body_process.BodyProcess`, never imported: standard input brings the job as JSON and the
raw body, standard output takes the answer, in the parts of `core.worker`. The serving process never holds the
values of a body that is refused, and of one that is accepted only those that have a use.
"""

import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tuition.core.errors import TuitionError
from tuition.core.worker import read_parts, write_parts
from tuition.serve.body import parse_body
from tuition.serve.bounds import BodyLimits, ModelLimits, check_sizes, check_values
from tuition.serve.errors import ApiError, as_api_error
from tuition.serve.protocol import ChatRequest, Common, CompletionRequest, list_fields, read_request
from tuition.tokenizer.folder import FolderSettings
from tuition.tokenizer.tokenizer import Tokenizer

KINDS: dict[str, type[Common]] = {kind.__name__: kind for kind in (ChatRequest, CompletionRequest)}
_UNUSED = {
    name: {field.name for field in list_fields(kind) if field.support == "no effect"}
    for name, kind in KINDS.items()
}
_SLICE = 10_000
"""Token ids in one piece of the answer."""
_PART = 1 << 20
"""Bytes in one piece of the ids of a text: the server copies each in one go."""
_Answer = tuple[dict[str, Any], Iterable[bytes]]
_NICENESS = 5
"""Token generation goes first where cores are few."""


def _answer(job: dict[str, Any], raw: bytes) -> Iterator[bytes]:
    """The error, or the fields of a body within its limits and then, part after part, its token ids."""
    try:
        fields, parts = _KINDS_OF_JOB.get(job["kind"], _read)(job, raw)
    except (TuitionError, ApiError) as error:
        told = as_api_error(error, "")
        names = ("status", "message", "kind", "code", "param", "headers")
        yield _dump({"error": {name: getattr(told, name) for name in names}})
    except Exception as error:  # a bug: its message may hold text of the caller
        yield _dump({"bug": type(error).__name__})
    else:
        yield _dump({"fields": fields})
        yield from parts


def _dump(part: Any) -> bytes:
    return json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()


def _read_fields(_: dict[str, Any], raw: bytes) -> _Answer:
    body = parse_body(raw)
    tokens = body.get("tokens")
    if isinstance(tokens, list) and all(type(token) is int for token in tokens):
        body["tokens"] = []
    else:
        tokens = []
    check_values("body", body)
    return body, [_dump(tokens[begin : begin + _SLICE]) for begin in range(0, len(tokens), _SLICE)]


def _read(job: dict[str, Any], raw: bytes) -> _Answer:
    body, name = parse_body(raw), job["kind"]
    models = {model: ModelLimits(*numbers) for model, numbers in job["models"].items()}
    check_sizes(body, BodyLimits(job["max_sequences"], models))
    request = read_request(KINDS[name], body)
    used = request.model_fields_set & KINDS[name].model_fields.keys() - _UNUSED[name]
    fields = {field: body[field] for field in used}
    if isinstance(request, ChatRequest):
        fields["messages"] = request.messages
        for field in ("messages", "chat_template_kwargs"):
            check_values(field, fields.get(field))
    elif isinstance(request, CompletionRequest) and not isinstance(request.prompt[0], str):
        return fields | {"prompt": ""}, map(_dump, request.prompt)
    return fields, ()


def _take_tokenizer(job: dict[str, Any], raw: bytes) -> _Answer:
    settings = job["settings"] | {"eos_ids": tuple(job["settings"]["eos_ids"])}
    _TOKENIZERS[job["tokenizer"]] = Tokenizer.from_json(raw.decode(), FolderSettings(**settings))
    return {}, ()


def _encode(job: dict[str, Any], raw: bytes) -> _Answer:
    ids = _TOKENIZERS[job["tokenizer"]].encode(raw.decode(), add_bos=job["add_bos"])
    text = ",".join(map(str, ids)).encode()
    return {"count": len(ids)}, [text[begin : begin + _PART] for begin in range(0, len(text), _PART)]


_KINDS_OF_JOB = {"fields": _read_fields, "tokenizer": _take_tokenizer, "ids": _encode}
"""The others are kinds of bodies."""
_TOKENIZERS: dict[str, Tokenizer] = {}


def main() -> None:
    """Answer one body after the other until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    gc.disable()  # a body of a million values has no cycles; looking for them doubles the time to parse it
    gc.freeze()
    while (parts := read_parts(sys.stdin.buffer)) is not None:
        job, raw = parts
        write_parts(sys.stdout.buffer, list(_answer(json.loads(job), raw)))
        gc.collect()


if __name__ == "__main__":
    main()
