"""Which files a corpus is made of.

In: `DataSettings`.  Out: `Source`s in an order that does not depend on the file system.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Literal

from tuition.core.errors import DataError, SettingsError
from tuition.data.settings import DataSettings

Kind = Literal["text", "jsonl", "parquet", "arrow"]

KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
}

_SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation",
                "dev": "validation", "test": "test", "eval": "test"}  # fmt: skip
_SPLIT_WORD = re.compile(r"(?<![a-z])(" + "|".join(_SPLIT_NAMES) + r")(?![a-z])")


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
        return self.path.stat().st_size


def find_sources(settings: DataSettings) -> list[Source]:
    """The files that `settings.paths` name. Raises: DataError for a path that is not there or a folder
    without text."""
    if not settings.paths:
        raise SettingsError("paths", got="none", wanted="at least one file or folder, or a demo corpus")
    sources: list[Source] = []
    for path in settings.paths:
        if path.is_file():
            sources.append(Source(path, path.name, _kind(path)))
        elif path.is_dir():
            sources += _folder_sources(path, settings)
        else:
            raise DataError(path, "is not there", way_out="check the spelling")
    seen: set[Path] = set()
    return [
        source for source in sources if not (source.path.resolve() in seen or seen.add(source.path.resolve()))
    ]


def _folder_sources(folder: Path, settings: DataSettings) -> list[Source]:
    files = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path.relative_to(folder))
    ]
    if not settings.include and (folder / "dataset_dict.json").is_file():
        folder = folder / settings.dataset_split
        if not folder.is_dir():
            raise DataError(folder, "this split is not there", way_out="choose another dataset_split")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path: path.relative_to(folder).as_posix() for path in files}
    if settings.include:
        files = [path for path in files if _matches(names[path], settings.include)]
    else:
        files = [path for path in files if path.suffix.lower() in KINDS]
        if any(KINDS[path.suffix.lower()] != "text" for path in files) and _is_dataset(folder):
            files = _of_split(
                [path for path in files if KINDS[path.suffix.lower()] != "text"], names, settings, folder
            )
    files = [path for path in files if not _matches(names[path], settings.exclude)]
    if not files:
        known = ", ".join(KINDS)
        raise DataError(
            folder, "holds no text", way_out=f"known extensions are {known}; include=... takes others"
        )
    return [Source(path, names[path], _kind(path)) for path in files]


def _is_dataset(folder: Path) -> bool:
    """A dataset in the hub's layout: a card, an info file, or a data folder."""
    if any((folder / name).is_file() for name in ("dataset_infos.json", "dataset_info.json", "state.json")):
        return True
    card = folder / "README.md"
    return (folder / "data").is_dir() or (card.is_file() and card.read_bytes()[:4].rstrip() == b"---")


def _of_split(files: list[Path], names: dict[Path, str], settings: DataSettings, folder: Path) -> list[Path]:
    """Files of the split asked for, where their names tell splits apart; all of them where they do not."""
    splits = {path: _split_of(names[path]) for path in files}
    if not any(splits.values()):
        return files
    wanted = _SPLIT_NAMES.get(settings.dataset_split, settings.dataset_split)
    chosen = [path for path in files if splits[path] == wanted]
    if not chosen:
        known = ", ".join(sorted({split for split in splits.values() if split}))
        raise DataError(
            folder, f"has no split {settings.dataset_split!r}", way_out=f"choose dataset_split from: {known}"
        )
    return chosen


def _split_of(name: str) -> str | None:
    words = _SPLIT_WORD.findall(name.lower())
    return _SPLIT_NAMES[words[-1]] if words else None


def _kind(path: Path) -> Kind:
    return KINDS.get(path.suffix.lower(), "text")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


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
