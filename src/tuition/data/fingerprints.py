"""What is in every file, remembered: a file whose size and time are as before is not read again.

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


def fingerprint_sources(sources: list[Source], memory: Path, progress: Progress) -> list[tuple[str, str]]:
    """(name and kind, SHA-256) of every source. What `memory` holds is trusted while size and modification
    time are the same."""
    known = _remembered(memory)
    fresh: dict[str, list[object]] = {}
    found: list[tuple[str, str]] = []
    to_read = sum(
        source.num_bytes for source in sources if _state(source.path) != known.get(_key(source), [])[:2]
    )
    with progress.task("look at files", to_read, "B") as task:
        for source in sources:
            state, entry = _state(source.path), known.get(_key(source), [])
            if entry[:2] == state:
                digest = str(entry[2])
            else:
                digest = _digest(source.path, task)
                if time.time_ns() - state[1] > _JUST_NOW_NS and _state(source.path) == state:
                    fresh[_key(source)] = [*state, digest]
            found.append((f"{source.name}\0{source.kind}\0{source.title}\0{source.tidy}", digest))
    if fresh:
        write_json(memory, known | fresh)
    return found


def _key(source: Source) -> str:
    return os.fsencode(source.path.resolve()).decode("utf-8", "backslashreplace")


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _digest(path: Path, task: Task) -> str:
    whole = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(2**20):
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
    return {key: entry for key, entry in value.items() if isinstance(entry, list) and len(entry) == 3}
