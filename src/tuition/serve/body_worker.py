"""Parses, bounds and validates large bodies, in a process of its own.

Run as a program by `body_process.BodyProcess`, never imported: standard input brings a line of JSON with the
job and then the raw body; standard output takes the answer. The serving process never holds the values of a
body that is refused, and of one that is accepted only those that have a use.
"""

import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tuition.core.errors import TuitionError
from tuition.serve.body import parse_body
from tuition.serve.bounds import BodyLimits, ModelLimits, check_sizes, check_values
from tuition.serve.errors import ApiError, as_api_error
from tuition.serve.protocol import ChatRequest, Common, CompletionRequest, list_fields, read_request

KINDS: dict[str, type[Common]] = {kind.__name__: kind for kind in (ChatRequest, CompletionRequest)}
_UNUSED = {
    name: {field.name for field in list_fields(kind) if field.support == "no effect"}
    for name, kind in KINDS.items()
}
_SLICE = 10_000
"""Token ids in one piece of the answer."""
_NICENESS = 5
"""Token generation goes first where cores are few."""


def _answer(job: dict[str, Any], raw: bytes) -> Iterator[Any]:
    """The error, or the fields of a body within its limits and then, list after list, its token ids."""
    try:
        fields, ids = _read(job, raw)
    except (TuitionError, ApiError) as error:
        told = as_api_error(error, "")
        yield {
            "error": {
                "status": told.status,
                "message": told.message,
                "kind": told.kind,
                "code": told.code,
                "param": told.param,
                "headers": told.headers,
            }
        }
    except Exception as error:  # a bug: its message may hold text of the caller
        yield {"bug": type(error).__name__}
    else:
        yield {"fields": fields, "num_lists": len(ids)}
        yield from ids


def _read(job: dict[str, Any], raw: bytes) -> tuple[dict[str, Any], Sequence[Sequence[int]]]:
    body, name = parse_body(raw), job["kind"]
    if name is None:
        tokens = body.get("tokens")
        if isinstance(tokens, list) and all(type(token) is int for token in tokens):
            body["tokens"] = []
        else:
            tokens = []
        check_values("body", body)
        return body, [tokens[begin : begin + _SLICE] for begin in range(0, len(tokens), _SLICE)]
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
        return fields | {"prompt": ""}, request.prompt  # type: ignore[return-value]
    return fields, ()


def main() -> None:
    """Answer one body after the other until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    gc.disable()  # a body of a million values has no cycles; looking for them doubles the time to parse it
    gc.freeze()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while header := source.readline():
        job = json.loads(header)
        raw = source.read(job["size"])
        if len(raw) < job["size"]:
            return
        for part in _answer(job, raw):
            data = json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()
            sink.write(b"%d\n%s" % (len(data), data))
        sink.flush()
        gc.collect()


if __name__ == "__main__":
    main()
