"""Digests of large files, cached so that an unchanged file is read once.

In: a path.  Out: SHA-256, as 64 hex digits. A kept digest counts only for the same file (device and inode)
with the same size and the same times of change to the nanosecond; the time of the last change of its status
cannot be set by a program, so a file that was written again is hashed again. A file that has just been
written is not kept: within one tick of the clock it could be written a second time.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from tuition.core.durable import file_digest, write_json

_SETTLED_NS = 2_000_000_000


def digest_of_pair(adapter: str, base: str) -> str:
    """What receipts name for a reply of an adapter: SHA-256 over the digests of adapter and base."""
    return hashlib.sha256(f"adapter {adapter}\nbase {base}\n".encode()).hexdigest()


class DigestCache:
    """Digests kept in the files of one folder; a folder that cannot be written keeps none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def digest(self, path: Path) -> str:
        """SHA-256 of the file's content. Raises: OSError."""
        facts = _facts(path)
        kept = self._folder / f"digest-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"
        try:
            entry = json.loads(kept.read_text())
            if entry["facts"] == facts and len(entry["sha256"]) == 64:
                return str(entry["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none, or damaged: it is made anew
        digest = file_digest(path)
        settled = time.time_ns() - max(facts["mtime_ns"], facts["ctime_ns"]) > _SETTLED_NS
        if settled and _facts(path) == facts:
            try:
                write_json(kept, {"facts": facts, "sha256": digest})
            except OSError:
                pass  # full or read-only: it is hashed again the next time
        return digest


def _facts(path: Path) -> dict[str, int]:
    status = os.stat(path)
    return {
        "device": status.st_dev,
        "inode": status.st_ino,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }
