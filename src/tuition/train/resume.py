"""Selects the run to resume, and computes the rest of its budget.

In: settings, the runs of a workspace, a checkpoint.  Out: a run folder, the span of the rest of the run.
"""

from collections.abc import Callable
from typing import Any, Literal

from tuition.core.errors import SettingsError
from tuition.core.progress import Progress
from tuition.core.workspace import Workspace
from tuition.ledger.training import TrainingBill
from tuition.runtime.checkpoints import Checkpoint
from tuition.train.folder import RunFolder, unfinished_runs
from tuition.train.header import changed_settings, settings_table, stored_table
from tuition.train.recipe import Recipe
from tuition.train.schedule import BudgetSpan, Span, StepSpan
from tuition.train.settings import TrainSettings

OtherSettings = Literal["refuse", "begin a new run"]
"""What to do when the newest run has other settings."""


def newest_run(
    settings: TrainSettings,
    recipe: Recipe,
    workspace: Workspace,
    progress: Progress,
    other_settings: OtherSettings,
) -> RunFolder | None:
    """The newest unfinished run with these settings that has a checkpoint, else the newest without one; None
    to begin a new run.

    A run with a checkpoint is preferred to a newer run without one.
    Raises: SettingsError.
    """
    changes: dict[RunFolder, dict[str, tuple[Any, Any]]] = {}
    for folder in unfinished_runs(workspace, settings.name):
        try:
            changes[folder] = _changes(folder, settings, recipe)
        except SettingsError:  # of another recipe, or of another version of this program
            continue
    with_checkpoint = [folder for folder in changes if folder.has_checkpoint]
    for folder in with_checkpoint:
        if not changes[folder]:
            progress.say(f"resuming {folder.run_id}")
            return folder
    if with_checkpoint and other_settings == "refuse":
        _refuse(with_checkpoint[0], changes[with_checkpoint[0]])
    for folder in changes:
        if not changes[folder]:
            progress.say(f"resuming {folder.run_id}, which has no checkpoint yet: it begins at step 0")
            return folder
    if with_checkpoint:
        changed = next(iter(changes[with_checkpoint[0]]))
        other = f"{with_checkpoint[0].run_id} is unfinished and has other settings ({changed})"
        progress.say(f"{other}; a new run begins")
    else:
        progress.say("nothing to resume, a new run begins")
    return None


def require_same_settings(folder: RunFolder, settings: TrainSettings, recipe: Recipe) -> None:
    """Raises: SettingsError when the settings are not those of the run to be resumed."""
    _refuse(folder, _changes(folder, settings, recipe))


def _changes(folder: RunFolder, settings: TrainSettings, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    return changed_settings(stored_table(folder.settings, recipe), settings_table(settings, recipe))


def _refuse(folder: RunFolder, changes: dict[str, tuple[Any, Any]]) -> None:
    for name, (before, now) in changes.items():
        wanted = f"{before!r} as in {folder.run_id}, which is to be resumed; or leave out --resume"
        raise SettingsError(name, got=now, wanted=wanted)


def span_left(
    settings: TrainSettings,
    checkpoint: Checkpoint | None,
    folder: RunFolder,
    bill: TrainingBill,
    clock: Callable[[], float],
) -> Span:
    """The span of the run, from where its checkpoint is."""
    spent_s = _spent_s(checkpoint, folder, bill)
    if settings.steps is not None:
        return StepSpan(settings.steps, spent_s, clock)
    return BudgetSpan(settings.budget_s or 0.0, spent_s, clock)


def _spent_s(checkpoint: Checkpoint | None, folder: RunFolder, bill: TrainingBill) -> float:
    """Seconds of the training loop that earlier processes of the run have used.

    After a kill the steps since the checkpoint are made again, and their time is spent all the same: the bill
    knows it. A run that was stopped in order has lost nothing; what the bill has more is its last evaluation.
    Without a checkpoint nothing is left of the run, and it has its whole time again.
    """
    if checkpoint is None:
        return 0.0
    spent_s = float(checkpoint.state["spent_s"])
    if folder.result.exists():
        return spent_s
    billed_ns = bill.earlier_teaching_ns
    return spent_s + max(0, billed_ns - checkpoint.state.get("billed_ns", billed_ns)) / 1e9
