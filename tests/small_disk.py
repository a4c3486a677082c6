"""Disks that can be filled: a small file system, or files that may not grow.

`tmpfs` is a real file system, where mounting is allowed; `limit` lets no file grow, on any system.
"""

import resource
import shutil
import subprocess
from pathlib import Path

from tuition.books.books import Books
from tuition.books.scores import write_score
from tuition.core.records import Score

SOFT, HARD = resource.getrlimit(resource.RLIMIT_FSIZE)


class SmallDisk:
    """A file system of 12 MB of its own."""

    says = "disk is full"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], check=True, timeout=10)

    def fill(self, leave: int) -> None:
        """Piece by piece: others write to it at the same time."""
        with self._filler.open("wb", buffering=0) as filler:
            while (free := shutil.disk_usage(self.folder).free) > leave:
                filler.write(bytes(min(2**17, free - leave)))

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)

    def remove(self) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True, timeout=10)


class LimitedFiles:
    """A folder whose files may not grow: needs no rights, and looks like an I/O error."""

    says = "disk I/O error"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def limit(self, size: int) -> None:
        """No file may grow beyond `size` bytes."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, HARD))

    def fill(self, leave: int) -> None:
        largest = max(path.stat().st_size for path in self.folder.rglob("books.sqlite*"))
        self.limit(largest + leave)

    def empty(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SOFT, HARD))

    def remove(self) -> None:
        self.empty()


def grow_log(books: Books, until: Path, size: int) -> None:
    """Write scores with long texts until a file has grown to `size`, almost."""
    score = Score("t", 1.0, None, "u", "y" * 40_000, 1)
    while not until.exists() or until.stat().st_size < size - 100_000:
        books.write_now(lambda connection: write_score(connection, "m", 1, score))
