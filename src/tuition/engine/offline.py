"""Many prompts from a file, replies into a file; a run that was stopped continues where it was.

In: .jsonl, one object per line: `prompt` (text or token ids) or `messages`, and if wanted `id` (default: the
line's number) and any sampling field.  Out: .jsonl, one object per reply, in the order in which replies end.
A line of the output counts as done when it is complete and not an error. A reply under the same id to another
prompt or with other settings is refused, and so is a file that holds anything but replies.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from tuition.core.durable import sync_folder
from tuition.core.errors import DataError, RequestError, TuitionError
from tuition.core.lock import FileLock
from tuition.core.progress import Progress, SilentProgress
from tuition.engine.engine import Engine
from tuition.engine.request import Completion, Request, Sampling

OWN_FIELDS = ("id", "prompt", "messages", "max_tokens")
_FIRST_BYTES = b'{"id": '
REQUEST_FIELDS = ("stop", "stop_ids", "ignore_eos", "logprobs", "prompt_logprobs", "cache_salt", "priority",
                  "variant")  # fmt: skip


BillOf = Callable[[str], Mapping[str, Any]]


def no_bill(request_id: str) -> Mapping[str, Any]:
    """What a request has cost where nobody bills."""
    return {}


@dataclass(frozen=True)
class FileReport:
    """What a run over a file did."""

    num_lines: int
    num_reused: int
    """Replies that were there already."""
    num_done: int
    num_failed: int
    """Lines of the output with an error; the next run tries them again."""
    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated: int


@dataclass(frozen=True, slots=True)
class _Line:
    id: str
    number: int
    fields: dict[str, Any]
    digest: str


def generate_file(
    engine: Engine,
    source: Path,
    target: Path,
    *,
    progress: Progress | None = None,
    bill_of: BillOf = no_bill,
    **defaults: Any,
) -> FileReport:
    """Answer every line of `source` into `target`. `defaults`: fields for lines that do not set them.

    `bill_of`: gives what the request of an id has cost, as fields of its line.

    Every line of `source` is checked before anything is computed. Raises: DataError with file and line, also
    when `target` is `source`, holds anything but replies, or cannot be written; BusyError while another run
    writes to it.
    """
    target = Path(os.path.realpath(target))  # what a link names is replaced, not the link
    if target.exists() and source.exists() and os.path.samefile(source, target):
        raise DataError(target, "is the file of prompts", way_out="choose another output file")
    if target.exists() and not target.is_file():  # a new file would take the place of /dev/null
        raise DataError(
            target, "cannot be written: it is not a regular file", way_out="choose another output file"
        )
    if not target.parent.is_dir():
        raise DataError(target, "cannot be written: its folder is not there", way_out="make the folder first")
    known = set(OWN_FIELDS) | set(REQUEST_FIELDS) | set(Sampling.__dataclass_fields__)
    digests: dict[str, str] = {}
    for line in _read(source, defaults, known):
        if line.id in digests:
            raise DataError(
                source, f"the id {line.id!r} occurs twice", line=line.number, way_out="make ids unique"
            )
        digests[line.id] = line.digest
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(target.with_name(f".{target.name}.lock"), timeout_s=1.0))
            finished = _keep_finished(target, digests)
            out = held.enter_context(_open_to_append(target))
        except OSError as error:
            way_out = "choose another output file"
            raise DataError(target, f"cannot be written: {error.strerror}", way_out=way_out) from error
        lines = (line for line in _read(source, defaults, known) if line.id not in finished)
        counts = len(digests), len(finished)
        return _answer(engine, lines, out, counts, progress or SilentProgress(), bill_of)


class _NotWrittenError(Exception):
    """The file of replies takes no more."""


@contextmanager
def _open_to_append(target: Path) -> Iterator[TextIO]:
    """After a failure what is left in the buffer is given up, so that closing does not fail as well."""
    out = open(target, "a", encoding="utf-8")  # noqa: SIM115 (see above)
    try:
        yield out
    except BaseException:
        with suppress(OSError):
            out.close()
        raise
    out.close()


def _answer(
    engine: Engine,
    lines: Iterator[_Line],
    out: TextIO,
    numbers: tuple[int, int],
    progress: Progress,
    bill_of: BillOf,
) -> FileReport:
    """Answer these lines into `out`. `numbers`: of all lines, and of replies that are in `out` already."""
    num_lines, num_reused = numbers
    counts = dict.fromkeys(("done", "failed", "prompt", "cached", "generated"), 0)
    with progress.task("generate", num_lines, "replies") as task:
        task.advance(num_reused, "taken over")
        waiting: dict[str, _Line] = {}

        def requests() -> Iterator[Request]:
            for line in lines:
                try:
                    request = _request(engine, line)
                except TuitionError as error:
                    _write(out, line, None, str(error))
                    counts["failed"] += 1
                    task.advance(1)
                    continue
                waiting[request.id] = line
                yield request

        try:
            for reply in engine.run(requests()):
                _write(out, waiting[reply.request_id], reply, reply.error, bill_of(reply.request_id))
                del waiting[reply.request_id]
                counts["failed" if reply.finish_reason == "error" else "done"] += 1
                counts["prompt"] += reply.num_prompt_tokens
                counts["cached"] += reply.num_cached_tokens
                counts["generated"] += reply.num_generated
                task.advance(1, f"{counts['generated']:,} tokens")
        except _NotWrittenError as error:
            raise DataError(
                out.name,
                f"a reply could not be written ({error}); {len(waiting):,} requests that were in work are "
                "billed for what they computed and have no reply in the file",
                way_out="free some space and run the same command again: what is in the file is kept",
            ) from error
        os.fsync(out.fileno())
    return FileReport(
        num_lines=num_lines,
        num_reused=num_reused,
        num_done=counts["done"],
        num_failed=counts["failed"],
        num_prompt_tokens=counts["prompt"],
        num_cached_tokens=counts["cached"],
        num_generated=counts["generated"],
    )


def _read(source: Path, defaults: Mapping[str, Any], known: set[str]) -> Iterator[_Line]:
    way_out = 'write objects like {"id": "a1", "prompt": "Once upon"}'
    try:
        with open(source, "rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                try:
                    fields = json.loads(raw.decode("utf-8"))
                except (ValueError, RecursionError) as error:
                    raise DataError(source, f"is not JSON: {error}", line=number, way_out=way_out) from error
                if not isinstance(fields, dict) or ("prompt" in fields) == ("messages" in fields):
                    raise DataError(
                        source, "wanted an object with prompt or messages", line=number, way_out=way_out
                    )
                if unknown := sorted(set(fields) - known):
                    raise DataError(
                        source, f"has an unknown field {unknown[0]!r}", line=number, way_out=way_out
                    )
                name = str(fields.pop("id", number))
                if not _is_text(name):
                    raise DataError(
                        source, "the id holds half of a surrogate pair", line=number, way_out=way_out
                    )
                fields = {**defaults, **fields}
                text = json.dumps(fields, sort_keys=True, default=str)
                yield _Line(name, number, fields, hashlib.sha256(text.encode()).hexdigest()[:16])
    except OSError as error:
        raise DataError(source, f"cannot be read: {error.strerror}", way_out="check the path") from error


def _is_text(value: str) -> bool:
    """False for half of a surrogate pair, which a JSON escape can hold and a UTF-8 file cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _request(engine: Engine, line: _Line) -> Request:
    fields = dict(line.fields)
    prompt = fields.pop("messages") if "messages" in fields else fields.pop("prompt")
    if "messages" in line.fields and not (
        isinstance(prompt, list) and prompt and isinstance(prompt[0], dict)
    ):
        raise RequestError("messages", "wanted a list of messages")
    return engine.request(engine.encode(prompt), **fields)


def _write(
    out: Any, line: _Line, reply: Completion | None, error: str | None, bill: Mapping[str, Any] | None = None
) -> None:
    row: dict[str, Any] = {"id": line.id, "line": line.number, "digest": line.digest}
    if reply is not None:
        row |= {
            "request": reply.request_id,
            "text": reply.text,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.num_prompt_tokens,
            "cached_tokens": reply.num_cached_tokens,
            "generated_tokens": reply.num_generated,
        }
        if reply.logprobs:
            row["logprobs"] = [asdict(score) for score in reply.logprobs]
        if reply.prompt_logprobs is not None:
            row["prompt_logprobs"] = [asdict(score) for score in reply.prompt_logprobs]
    row |= bill or {}
    if error is not None:
        row |= {"finish_reason": "error", "error": error}
    try:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")
        out.flush()
    except OSError as problem:
        raise _NotWrittenError(problem.strerror) from problem


def _keep_finished(target: Path, digests: Mapping[str, str]) -> set[str]:
    """Ids answered already; lines that are cut off or hold an error are taken out of the file."""
    finished: set[str] = set()
    if not target.exists():
        return finished
    staged = target.with_name(f".{target.name}.tmp")
    with open(target, "rb") as old, open(staged, "wb") as new:
        for number, raw in enumerate(old, 1):
            try:
                row = json.loads(raw.decode("utf-8")) if raw.endswith(b"\n") else None
            except (ValueError, RecursionError):
                row = None
            if not _is_ours(raw, row):
                staged.unlink()
                raise DataError(
                    target,
                    "is not a reply of this program",
                    line=number,
                    way_out="choose another output file",
                )
            if not isinstance(row, dict) or row.get("finish_reason") in (None, "error", "cancelled"):
                continue
            if digests.get(str(row.get("id"))) != _digest_of(row):
                staged.unlink()
                raise DataError(
                    target,
                    f"the reply {row.get('id')!r} is to another prompt, or was made with other settings",
                    line=number,
                    way_out="choose another output file",
                )
            finished.add(str(row["id"]))
            new.write(raw)
        new.flush()
        os.fsync(new.fileno())
    os.replace(staged, target)
    sync_folder(target.absolute().parent)
    return finished


def _digest_of(row: Mapping[str, Any]) -> Any:
    """Of the prompt and settings that a reply was made with; `request` was its name in older files."""
    return row.get("digest", row.get("request"))


def _is_ours(raw: bytes, row: Any) -> bool:
    """The line is a reply, the beginning of one that was cut off, or zeros that a crash has left."""
    if row is not None:
        return isinstance(row, dict) and "id" in row and ("digest" in row or "request" in row)
    begin = raw.strip(b"\0\r\n")[: len(_FIRST_BYTES)]
    return _FIRST_BYTES.startswith(begin)
