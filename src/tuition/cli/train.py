"""`tuition train`: teach a model from your own text, within a budget of time or for a number of steps."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from tuition.cli.arguments import Common, Flat, parse
from tuition.cli.machine import detect_for
from tuition.core.errors import SettingsError
from tuition.core.workspace import open_workspace
from tuition.spec.settings import MachineSettings
from tuition.train.settings import TrainSettings

DESCRIPTION = (
    "Teach a model from text: tokenizer, packing, training, held-out score, samples, and a model folder. "
    "Ctrl-C keeps what was taught and bills it."
)


@dataclass(frozen=True, kw_only=True)
class Train(Common):
    """What `tuition train` takes."""

    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the newest unfinished run of this name; the settings must be the same."""
    train: Annotated[TrainSettings, Flat] = field(default_factory=TrainSettings)
    """The run."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """What you know better about this machine and its price."""


def run(argv: list[str]) -> int:
    """Teach, then print the receipt; 130 when stopped by Ctrl-C after the model was kept."""
    arguments = parse(Train, argv, verb="train", description=DESCRIPTION)
    settings = arguments.train
    if not settings.data.paths and settings.data.demo is None:
        raise SettingsError(
            "data.paths", got=(), wanted="the text to teach, as --data.paths FILE or --data.demo shakespeare"
        )
    from tuition.books.books import open_books
    from tuition.cli.terminal import open_progress
    from tuition.ledger.render import render
    from tuition.ledger.statements import training_receipt
    from tuition.train.run import run_training

    settings = from_anywhere(settings)
    workspace = open_workspace(arguments.workspace).create()
    machine = detect_for(settings.device, arguments.machine, workspace)
    progress = open_progress()
    with open_books(workspace) as books:
        result = run_training(settings, workspace, books, machine, progress, resume=arguments.resume)
        print(render(training_receipt(books, result.run_id)))
    score = result.probes[-1].score if result.probes else None
    if score is not None:
        error = "" if score.stderr is None else f" ± {score.stderr:.3f}"
        print(f"held-out: {score.value:.3f}{error} bits per byte; {result.split}")
    print(f"model: {result.version.reference}   use it: tuition chat {result.version.name}")
    print(f"run:   {result.folder}")
    return 0 if result.status == "finished" else 130


def from_anywhere(settings: TrainSettings) -> TrainSettings:
    """The same with whole paths: they are kept with the run, which is resumed and scored from any folder."""
    data = replace(settings.data, paths=tuple(whole(path) for path in settings.data.paths))
    tokenizer = None if settings.tokenizer is None else whole(settings.tokenizer)
    return replace(settings, data=data, tokenizer=tokenizer)


def whole(path: Path) -> Path:
    """From the root, without `~` and `..`; a link to a file keeps its name, which tells the file's kind."""
    found = Path(os.path.expanduser(path)).absolute()
    return found.resolve() if found.name == ".." else found.parent.resolve() / found.name
