"""Open files that are not ours: regular files inside their folder only, mapped read-only, never executed.

A file is opened once; its digest and its content come from that one mapping, so that a file swapped under its
name after the check is not what gets used.
"""

import hashlib
import json
import mmap
import os
import stat
from pathlib import Path
from typing import Any

from tuition.core.errors import ModelError
from tuition.core.repeated_keys import RepeatedKeyError, without_repeats
from tuition.tokenizer.folder import POINTER_HEAD, is_pointer, pointer_error

MAX_JSON_BYTES = 256 * 2**20
"""Above any config, index or header met so far; refused rather than parsed."""


class MappedFile:
    """One regular file as memory. Pages are private copies when written to; the file itself never changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hang us
        except OSError as error:
            raise ModelError(
                path, f"cannot be opened ({error.strerror})", way_out="check the path"
            ) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(path, "is not a regular file", way_out="replace it by the file itself")
            self.size = status.st_size
            if self.size == 0:
                raise ModelError(path, "is empty", way_out="fetch the file again")
            try:
                self.memory = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise ModelError(path, f"cannot be read ({error})", way_out="check the disk") from error
            if is_pointer(self.memory[:POINTER_HEAD]):
                raise pointer_error(path)
        finally:
            os.close(descriptor)

    def digest(self) -> str:
        """SHA-256 of the content, 64 hex digits."""
        return hashlib.sha256(self.memory).hexdigest()

    def release(self) -> None:
        """Give back the memory of what was read; it is read from the disk again where it is needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED)

    def json_object(self) -> dict[str, Any]:
        """The content as a JSON object. Raises: ModelError."""
        if self.size > MAX_JSON_BYTES:
            raise ModelError(
                self.path,
                f"has {self.size:,} bytes of JSON, {MAX_JSON_BYTES:,} are accepted",
                way_out="use another model",
            )
        return parse_json_object(self.memory[:], self.path)


def parse_json_object(text: bytes, path: Path) -> dict[str, Any]:
    """Strict JSON: UTF-8, no NaN, no key twice, an object on the outside. Raises: ModelError."""
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=without_repeats)
    except RepeatedKeyError as error:
        raise ModelError(path, str(error), way_out=error.way_out) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise ModelError(path, f"is not valid JSON ({reason})", way_out="fetch the file again") from error
    if not isinstance(value, dict):
        raise ModelError(path, "is not a JSON object", way_out="fetch the file again")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def inside(folder: Path, name: str) -> Path:
    """The file `name` of `folder`, where links lead no further than the folder or its hub cache.

    A snapshot in the layout of the Hugging Face cache links into `blobs` beside `snapshots`; nothing else
    may leave.
    Raises: ModelError for a name with a path in it, and for links that lead outside.
    """
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\x00" in name or len(name) > 255:
        raise ModelError(
            folder, f"names the file {name[:120]!r}", way_out="file names must not contain a path"
        )
    root = folder.resolve()
    path = folder / name
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise ModelError(path, "is a link that leads nowhere", way_out="fetch the file again") from error
        roots = [root, *([root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [])]
        if not any(target.is_relative_to(allowed) for allowed in roots):
            raise ModelError(
                path, "is a link that leads out of the folder", way_out="replace it by the file itself"
            )
        return target
    return path
