"""The workspace: one folder with models, runs, prepared data and the books."""

import os
from dataclasses import dataclass
from pathlib import Path

from tuition.core.errors import SettingsError


@dataclass(frozen=True)
class Workspace:
    """Paths inside one folder; nothing is created until it is needed."""

    root: Path

    @property
    def models(self) -> Path:
        """Registered models, `<name>/<version>/`."""
        return self.root / "models"

    @property
    def runs(self) -> Path:
        """Training runs, `<run id>/` with settings, log and checkpoints."""
        return self.root / "runs"

    @property
    def data(self) -> Path:
        """Tokenized shards, by digest of what made them."""
        return self.root / "data"

    @property
    def evaluations(self) -> Path:
        """Results of models on tasks, with every reply, by digest of what made them."""
        return self.root / "evaluations"

    @property
    def cache(self) -> Path:
        """Files that can be deleted and are made again, for example packed weights."""
        return self.root / "cache"

    @property
    def downloads(self) -> Path:
        """Files that come from the Hugging Face hub, until they are whole and become a version."""
        return self.root / "downloads"

    @property
    def books(self) -> Path:
        """The SQLite database of everything that was paid for."""
        return self.root / "books.sqlite"

    @property
    def lock(self) -> Path:
        """Held for every write transaction and checkpoint of the database, by any process."""
        return self.root / "books.lock"

    def create(self) -> "Workspace":
        """Make the folder, readable by its owner only, and return self. Raises: SettingsError."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            wanted = f"a folder that exists or can be created ({error.strerror})"
            raise SettingsError("workspace", got=str(self.root), wanted=wanted) from error
        return self


def open_workspace(root: Path | None = None) -> Workspace:
    """The workspace at `root`, else `$TUITION_HOME`, else `~/.tuition`."""
    chosen = root or os.environ.get("TUITION_HOME") or Path.home() / ".tuition"
    return Workspace(Path(chosen).expanduser().absolute())
