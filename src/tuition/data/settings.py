"""What to teach, as settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuition.core.errors import SettingsError, shown_path


@dataclass(frozen=True)
class DataSettings:
    """Which text is taught and which is held out."""

    paths: tuple[Path, ...] = ()
    """Text files, .jsonl or .parquet files, folders of them, or Hugging Face dataset folders."""
    demo: Literal["shakespeare", "stdlib"] | None = None
    """A demo corpus instead of paths: Shakespeare's plays, or the standard library of the running Python."""
    include: tuple[str, ...] = ()
    """In folders: only files that match one of these patterns, like `**/*.py`. Empty: the known
    extensions."""
    exclude: tuple[str, ...] = ()
    """In folders: no file that matches one of these patterns."""
    field: str = "text"
    """Where rows have fields (.jsonl, .parquet): the one that holds the text."""
    title_field: str | None = None
    """Where rows have fields: the one that names a document; left out: file and line name it."""
    dataset_split: str = "train"
    """Of a Hugging Face dataset folder: the split to take."""
    on_bad: Literal["fail", "skip"] = "fail"
    """Binary, broken or empty input: stop with an error, or skip it and count it."""
    heldout: tuple[str, ...] = ()
    """Titles of documents to hold out whole, with all copies of them. Empty: a share is held out by a hash of
    each document's text."""
    heldout_share: float = 0.05
    """Share of the text that is held out when no documents are named; copies count once. At most 65,536
    different documents are held out."""
    heldout_max_bytes: int = 32 * 2**20
    """The share is lowered so that about this many bytes are held out at most."""
    validation: tuple[str, ...] = ()
    """Titles of documents kept for choosing settings, with all copies of them; neither taught nor held out.
    """
    validation_share: float = 0.0
    """Share of the text kept for choosing settings, when no documents are named."""
    num_workers: int = 0
    """Processes that tokenize; 1 stays in this process, 0 chooses by the size of the corpus."""

    def __post_init__(self) -> None:
        for name in ("heldout_share", "validation_share"):
            share = getattr(self, name)
            if not 0 <= share <= 0.5:
                raise SettingsError(f"data.{name}", got=share, wanted="a share from 0 to 0.5")
        if not self.heldout and self.heldout_share == 0:
            raise SettingsError(
                "data.heldout_share", got=0, wanted="more than 0: something must be held out to measure with"
            )
        if self.heldout_max_bytes < 1:
            raise SettingsError("data.heldout_max_bytes", got=self.heldout_max_bytes, wanted="at least 1")
        if self.num_workers < 0:
            raise SettingsError("data.num_workers", got=self.num_workers, wanted="0 or more")
        if not self.field:
            raise SettingsError("data.field", got=self.field, wanted="the name of a field")
        if self.demo and self.paths:
            raise SettingsError(
                "data.paths",
                got=[str(path) for path in self.paths],
                wanted=f"none together with demo={self.demo}",
            )
        for path in self.paths:
            if shown_path(path) != str(path):  # it could not be written into the settings of a run
                wanted = "a path in UTF-8: rename it, or name the folder that it is in"
                raise SettingsError("data.paths", got=shown_path(path), wanted=wanted)
        if both := set(self.heldout) & set(self.validation):
            raise SettingsError(
                "data.validation", got=sorted(both), wanted="other documents than heldout has"
            )
