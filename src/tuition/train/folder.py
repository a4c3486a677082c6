"""The folder of one run: what was asked for, what happened, and where it can go on.

    settings.toml  header.json  tokenizer/  checkpoints/  log.jsonl  tensorboard/  result.json

In: a workspace and a run's id.  Out: paths, and the newest run of a name that is not finished.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuition.core.durable import write_durably, write_json
from tuition.core.errors import SettingsError
from tuition.core.settings import read_settings, to_toml
from tuition.core.workspace import Workspace
from tuition.train.settings import TrainSettings


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
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def result(self) -> Path:
        """Written when a run ends in order."""
        return self.path / "result.json"

    def create(self, settings: TrainSettings) -> "RunFolder":
        """Make the folder with the resolved settings in it."""
        write_durably(self.settings, to_toml(settings))
        return self

    def finish(self, result: dict[str, Any]) -> None:
        """Write how the run ended."""
        write_json(self.result, result)

    @property
    def is_finished(self) -> bool:
        """Whether it went to its end; one that was stopped can go on."""
        try:
            return json.loads(self.result.read_text(encoding="utf-8"))["status"] == "finished"
        except (OSError, ValueError, KeyError, TypeError):
            return False


def find_unfinished(workspace: Workspace, name: str) -> RunFolder | None:
    """The newest run of the model `name` that was killed or stopped; None when there is none."""
    if not workspace.runs.is_dir():
        return None
    newest: tuple[int, RunFolder] | None = None
    for path in workspace.runs.iterdir():
        folder = RunFolder(path)
        if not folder.settings.is_file() or folder.is_finished:
            continue
        try:
            is_named = read_settings(TrainSettings, folder.settings).name == name
        except SettingsError:  # of another version of this program
            continue
        began = folder.settings.stat().st_mtime_ns
        if is_named and (newest is None or began > newest[0]):
            newest = began, folder
    return None if newest is None else newest[1]
