"""Which files a corpus is made of.

In: settings that name files and folders.  Out: `Source`s in an order that does not depend on the file
system.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Literal

from tuition.core.errors import DataError, SettingsError, shown_path
from tuition.data.settings import Files

Kind = Literal["text", "jsonl", "json", "csv", "tsv", "parquet", "arrow"]

KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}

CORPUS_KINDS: frozenset[Kind] = frozenset({"text", "jsonl", "parquet", "arrow"})
"""What is read in a folder of text. A .json or .csv file in it is as likely a part of a program as data: it
is read where it is named."""
ROW_KINDS: frozenset[Kind] = frozenset({"jsonl", "json", "csv", "tsv", "parquet", "arrow"})
"""What is read in a folder of examples."""

COMPRESSIONS = (".gz", ".bz2", ".xz")
"""Behind the extension of a text, JSON or CSV file: it is unpacked while it is read."""

_SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation",
                "dev": "validation", "test": "test", "eval": "test"}  # fmt: skip
_SPLIT_WORD = re.compile(r"(?<![a-z])(" + "|".join(_SPLIT_NAMES) + r")(?![a-z])")
_SHARD = re.compile(rf"(?:^|/)(?:{'|'.join(_SPLIT_NAMES)})-\d{{5}}-of-\d{{5}}")
_INFOS = ("dataset_infos.json", "dataset_info.json", "state.json", "dataset_dict.json")


@dataclass(frozen=True)
class Source:
    """One file of a corpus."""

    path: Path
    name: str
    """How its documents are called: its path below the folder that was asked for."""
    kind: Kind
    title: str | None = None
    """Of a file that is one titled document."""
    tidy: bool = False
    """Trailing spaces and runs of blank lines are taken out."""

    @property
    def num_bytes(self) -> int:
        """On disk. Raises: DataError."""
        try:
            return self.path.stat().st_size
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise DataError(self.path, problem, way_out="check that it is still there") from error


def find_sources(settings: Files, kinds: frozenset[Kind] = CORPUS_KINDS) -> list[Source]:
    """The files that `settings.paths` name; in folders, those of `kinds`. Raises: DataError for a path that
    is not there or a folder without data."""
    if not settings.paths:
        raise SettingsError(
            "data.paths", got=(), wanted="text, as --data.paths FILE or --data.demo shakespeare"
        )
    sources: list[Source] = []
    for path in settings.paths:
        if path.is_file():
            sources.append(Source(path, path.name, _kind_of_file(path)))
        elif path.is_dir():
            sources += _Folder(path, settings, kinds).sources()
        elif path.exists():
            raise DataError(path, "is neither a file nor a folder", way_out="write its text into a file")
        elif path.is_symlink():
            problem = f"is a link to {shown_path(path.readlink())}, which is not there"
            raise DataError(path, problem, way_out="mend the link, or name the file itself")
        else:
            raise DataError(path, "is not there", way_out="check the spelling")
    seen: set[Path] = set()
    return [
        source for source in sources if not (source.path.resolve() in seen or seen.add(source.path.resolve()))
    ]


def describe_unexpected(settings: Files, kinds: frozenset[Kind] = CORPUS_KINDS) -> list[str]:
    """What a reader may not expect: files that are not read, one line for each reason, and files of unknown
    extensions that are read as text."""
    lines = []
    for path in settings.paths:
        if path.is_dir():
            lines += _Folder(path, settings, kinds).unread()
        elif kind_of(path) is None:
            lines.append(f"{path}: of no known extension, read as plain text")
    return lines


def compression_of(path: Path) -> str | None:
    """`.gz` and the like, if the file is compressed."""
    return path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else None


class _Folder:
    """The files of one folder, and which of them are read."""

    def __init__(self, folder: Path, settings: Files, kinds: frozenset[Kind]) -> None:
        self._settings, self._root, self._folder, self._kinds = settings, folder, folder, kinds
        self._left_out: dict[str, list[str]] = {}
        if not settings.include and (folder / "dataset_dict.json").is_file():
            self._folder = folder / settings.dataset_split
            if not self._folder.is_dir():
                way_out = "choose another one with --data.dataset-split"
                raise DataError(self._folder, "this split is not there", way_out=way_out)
        self._names = {path: _name(path, self._folder) for path in _files_below(self._folder)}
        self._chosen = self._choose()

    def sources(self) -> list[Source]:
        if not self._chosen:
            known = ", ".join(name for name, kind in KINDS.items() if kind in self._kinds)
            way_out = f"known extensions are {known}; --data.include '**/*' takes others"
            problem = "holds no text" if "text" in self._kinds else "holds no examples"
            raise DataError(self._root, problem, way_out=way_out)
        return [Source(path, self._names[path], self._kind(path) or "text") for path in self._chosen]

    def unread(self) -> list[str]:
        lines = []
        for reason, names in self._left_out.items():
            files = "1 file" if len(names) == 1 else f"{len(names):,} files"
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            lines.append(f"not read in {shown_path(self._root)}: {files} {reason} ({shown})")
        return lines

    def _choose(self) -> list[Path]:
        settings, files = self._settings, list(self._names)
        if settings.include:
            files = [path for path in files if _matches(self._names[path], settings.include)]
        files = [path for path in files if not _matches(self._names[path], settings.exclude)]
        if settings.include:
            return files
        known = self._keep(files, lambda path: self._kind(path) is not None, "of no known extension")
        rows = [path for path in known if self._kind(path) != "text"]
        if not rows or not self._is_dataset(rows):
            return known
        self._keep(known, lambda path: self._kind(path) != "text", "beside a dataset")
        return self._of_split(rows)

    def _kind(self, path: Path) -> Kind | None:
        kind = kind_of(path)
        return kind if kind in self._kinds and path.name not in _INFOS else None

    def _keep(self, files: list[Path], condition: Callable[[Path], bool], reason: str) -> list[Path]:
        """Files that meet a condition; the others are remembered."""
        if left_out := [self._names[path] for path in files if not condition(path)]:
            self._left_out[reason] = left_out
        return [path for path in files if condition(path)]

    def _is_dataset(self, rows: list[Path]) -> bool:
        """A dataset in the hub's layout: a card, an info file, or all files named as splits are."""
        if any((self._folder / name).is_file() for name in _INFOS):
            return True
        if any(_SHARD.search(self._names[path]) for path in rows):
            return True
        stems = {PurePosixPath(self._names[path]).name.partition(".")[0].lower() for path in rows}
        if len(stems) > 1 and stems <= _SPLIT_NAMES.keys():
            return True
        card = self._folder / "README.md"
        return card.is_file() and card.read_bytes()[:4].rstrip() == b"---"

    def _of_split(self, files: list[Path]) -> list[Path]:
        """Files of the split asked for, where their names tell splits apart; all of them where they do
        not."""
        splits = {path: _split_of(self._names[path]) for path in files}
        if not any(splits.values()):
            return files
        wanted = _SPLIT_NAMES.get(self._settings.dataset_split, self._settings.dataset_split)
        reason = f"not of the split {wanted} (--data.dataset-split)"
        chosen = self._keep(files, lambda path: splits[path] == wanted, reason)
        if not chosen:
            known = ", ".join(sorted({split for split in splits.values() if split}))
            problem = f"has no split {self._settings.dataset_split!r}"
            way_out = f"choose --data.dataset-split from: {known}"
            raise DataError(self._root, problem, way_out=way_out)
        return chosen


def _files_below(folder: Path) -> list[Path]:
    """Files in a folder and those below it, linked ones too, each folder once; no hidden ones."""
    found: list[Path] = []
    seen: set[Path] = set()

    def refuse(error: OSError) -> None:
        way_out = "check its permissions"
        raise DataError(error.filename, f"cannot be read ({error.strerror})", way_out=way_out) from error

    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = Path(place).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        paths = (Path(place, name) for name in files if not _is_hidden(name))
        found += [path for path in paths if path.is_file()]
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def _name(path: Path, folder: Path) -> str:
    return shown_path(path.relative_to(folder).as_posix())


def _split_of(name: str) -> str | None:
    words = _SPLIT_WORD.findall(name.lower())
    return _SPLIT_NAMES[words[-1]] if words else None


def kind_of(path: Path) -> Kind | None:
    """What a file's extension says; None for an unknown one."""
    if compression_of(path) is None:
        return KINDS.get(path.suffix.lower())
    kind = KINDS.get(Path(path.stem).suffix.lower())
    return None if kind in ("parquet", "arrow") else kind  # these are compressed inside


def _kind_of_file(path: Path) -> Kind:
    """Of a file that was named: what is unknown is taken for text. Raises: DataError for packed tables."""
    kind = kind_of(path)
    if kind is None and compression_of(path) and KINDS.get(Path(path.stem).suffix.lower()):
        raise DataError(path, "is a compressed table", way_out="unpack it first")
    return kind or "text"


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Like a shell: `**/` also stands for no folder at all, and a pattern without a slash looks at the file's
    name."""
    plain = PurePosixPath(name).name
    return any(
        fnmatch(name, pattern)
        or fnmatch(name, pattern.replace("**/", ""))
        or ("/" not in pattern and fnmatch(plain, pattern))
        for pattern in patterns
    )
