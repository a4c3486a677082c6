"""The folder of one run: its settings, its log and its checkpoints.

    settings.toml  header.json  moment.json  base.json  tokenizer/  checkpoints/  best/  before.json
    log.jsonl  tensorboard/  result.json

In: a workspace and a run's id.  Out: paths, and which run a resume means.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuition.core.durable import write_durably, write_json
from tuition.core.errors import NotFoundError, SettingsError
from tuition.core.settings import read_table
from tuition.core.workspace import Workspace
from tuition.runtime.checkpoints import list_checkpoints


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def settings(self) -> Path:
        return self.path / "settings.toml"

    def moment(self) -> datetime:
        """When the run prepared its data first. Templates that write a date write this one, also on the day
        of a resume."""
        kept = self.path / "moment.json"
        if not kept.is_file():
            write_json(kept, datetime.now().isoformat(timespec="seconds"))
        return datetime.fromisoformat(json.loads(kept.read_text(encoding="utf-8")))

    @property
    def base(self) -> Path:
        """The model that the run began from, as its name was understood then."""
        return self.path / "base.json"

    @property
    def lock(self) -> Path:
        """Held by the process that teaches."""
        return self.path / "run.lock"

    @property
    def header(self) -> Path:
        """Digests and machine of the process that taught last."""
        return self.path / "header.json"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Weights with the best score so far."""
        return self.path / "best"

    @property
    def before(self) -> Path:
        """Scores of the first weights, where the run began from a model."""
        return self.path / "before.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def result(self) -> Path:
        """Written when a run ends in order."""
        return self.path / "result.json"

    def create(self, settings: str) -> "RunFolder":
        """Make the folder with the resolved settings, as TOML, in it."""
        write_durably(self.settings, settings)
        return self

    def finish(self, result: dict[str, Any]) -> None:
        """Write how the run ended."""
        write_json(self.result, result)

    @property
    def has_checkpoint(self) -> bool:
        return bool(list_checkpoints(self.checkpoints))

    @property
    def began(self) -> tuple[str, int]:
        """For sorting by age: the time in the run's id, then that of its settings for runs of one second."""
        return self.run_id.rpartition("-")[0][-len("20260101-000000") :], self.settings.stat().st_mtime_ns

    @property
    def is_finished(self) -> bool:
        """Whether the run reached its end; a stopped run can be resumed."""
        try:
            return json.loads(self.result.read_text(encoding="utf-8"))["status"] == "finished"
        except (OSError, ValueError, KeyError, TypeError):
            return False


def runs_of(workspace: Workspace, name: str | None = None) -> list[RunFolder]:
    """Runs of the model `name`, or of every model, the newest first."""
    if not workspace.runs.is_dir():
        return []
    found = []
    for path in workspace.runs.iterdir():
        folder = RunFolder(path)
        if not folder.settings.is_file():
            continue
        try:
            is_named = name is None or read_table(folder.settings).get("name") == name
        except SettingsError:  # damaged
            continue
        if is_named:
            found.append(folder)
    return sorted(found, key=lambda folder: folder.began, reverse=True)


def unfinished_runs(workspace: Workspace, name: str | None = None) -> list[RunFolder]:
    """The runs of `runs_of` that were killed or stopped."""
    return [folder for folder in runs_of(workspace, name) if not folder.is_finished]


def find_run(workspace: Workspace, name: str | None = None) -> RunFolder:
    """The run to resume: the one with the id `name`, else the newest unfinished run of the model `name` (of
    any model when left out) that has a checkpoint.

    Raises: NotFoundError with the runs that can be resumed; SettingsError when they are all finished.
    """
    if name is not None and "/" not in name and RunFolder(workspace.runs / name).settings.is_file():
        found = [RunFolder(workspace.runs / name)]
    else:
        found = runs_of(workspace, name)
    open_runs = [folder for folder in found if not folder.is_finished]
    for folder in open_runs:
        if folder.has_checkpoint:
            return folder
    if open_runs:
        return open_runs[0]
    if name is not None and not found:
        known = [folder.run_id for folder in unfinished_runs(workspace) if folder.has_checkpoint]
        raise NotFoundError(
            "unfinished run", name, known, if_none="no run can be resumed; leave out --resume"
        )
    what = "every run in this workspace" if name is None else f"every run that {name!r} means"
    wanted = f"an unfinished run: {what} is finished; leave out --resume to begin a new run"
    raise SettingsError("resume", got=name, wanted=wanted)
