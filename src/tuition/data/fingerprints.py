"""What is in every file, remembered: a file that was not written to since is not read again.

In: `Source`s.  Out: their names with the SHA-256 of their content.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from tuition.core.durable import write_json
from tuition.core.errors import DataError
from tuition.core.progress import Progress, Task
from tuition.data.sources import Source

_JUST_NOW_NS = 2_000_000_000
"""A file as young as this may change again without a change of its time."""


FileState = list[int]
"""Size, times of modification and change, and inode: the same while nobody writes to the file."""


def fingerprint_sources(sources: list[Source], memory: Path, progress: Progress) -> list[tuple[str, str]]:
    """(name and kind, SHA-256) of every source. What `memory` holds is trusted while the file's state is the
    same."""
    known = _remembered(memory)
    fresh: dict[str, list[object]] = {}
    found: list[tuple[str, str]] = []
    to_read = sum(
        source.num_bytes for source in sources if file_state(source) != known.get(_key(source), [])[:-1]
    )
    with progress.task("look at files", to_read, "B") as task:
        for source in sources:
            state, entry = file_state(source), known.get(_key(source), [])
            if entry[:-1] == state:
                digest = str(entry[-1])
            else:
                digest = _digest(source.path, state[0], task)
                require_unchanged([source], [state])
                if time.time_ns() - state[1] > _JUST_NOW_NS:
                    fresh[_key(source)] = [*state, digest]
            found.append((f"{source.name}\0{source.kind}\0{source.title}\0{source.tidy}", digest))
    if fresh:
        write_json(memory, known | fresh)
    return found


def file_state(source: Source) -> FileState:
    """What changes when somebody writes to the file. Raises: DataError."""
    try:
        stat = source.path.stat()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise DataError(source.path, problem, way_out="check that it is still there") from error
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def require_unchanged(sources: list[Source], states: list[FileState]) -> None:
    """Raises: DataError for a file that was written to since its state was taken."""
    for source, state in zip(sources, states, strict=True):
        if file_state(source) != state:
            way_out = "run again when nothing writes to it"
            raise DataError(source.path, "changed while it was read", way_out=way_out)


def _key(source: Source) -> str:
    return os.fsencode(source.path.resolve()).decode("utf-8", "backslashreplace")


def _digest(path: Path, num_bytes: int, task: Task) -> str:
    """Of the first `num_bytes`: a file that grows all the time has no end."""
    whole = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(min(2**20, num_bytes)):
                num_bytes -= len(chunk)
                whole.update(chunk)
                task.advance(len(chunk))
    except OSError as error:
        raise DataError(
            path, f"cannot be read ({error.strerror})", way_out="check its permissions"
        ) from error
    return whole.hexdigest()


def _remembered(memory: Path) -> dict[str, list[object]]:
    """What an earlier run wrote; nothing if that is damaged, since it can be found again."""
    try:
        value = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {key: entry for key, entry in value.items() if isinstance(entry, list) and len(entry) == 5}
