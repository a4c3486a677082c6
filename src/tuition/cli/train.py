"""`tuition train`: teach a model from your own text, within a budget of time or for a number of steps."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tuition.cli.arguments import Common, Flat, parse, settings_path
from tuition.cli.machine import detect_for
from tuition.core.errors import SettingsError
from tuition.core.settings import read_table
from tuition.core.workspace import Workspace, open_workspace
from tuition.spec.settings import MachineSettings
from tuition.train.recipes.pretrain_settings import PretrainSettings
from tuition.train.recipes.table import RECIPES, Entry, find_recipe
from tuition.train.settings import TrainSettings

if TYPE_CHECKING:
    from tuition.train.folder import RunFolder

DESCRIPTION = """Teach a model from text: tokenizer, training, held-out score, samples, and a model folder.
Ctrl-C saves the model as far as it was taught, and bills it.

Examples:
  tuition train my.txt --budget 5min
  tuition train notes/ more.jsonl --data.field story --name mine --budget 1h"""


@dataclass(frozen=True, kw_only=True)
class Train(Common):
    """What `tuition train` takes, whatever the recipe; `arguments_of` adds the recipe's own settings."""

    texts: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Text files, .jsonl or .parquet files, or folders of them; the same as --data.paths."""
    recipe: Literal[tuple(RECIPES)] = "pretrain"  # type: ignore[valid-type]
    """The way of training; the options below are those of this one."""
    resume: Annotated[str | None, tyro.conf.arg(metavar="[RUN]")] = None
    """Continue a run, named by its id or its model; its settings need not be given again. Without a name: the
    newest unfinished run that has a checkpoint. Settings that are given must be those of the run."""
    train: Annotated[TrainSettings, Flat] = field(default_factory=TrainSettings)
    """The run."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """Values that you know for this machine and its price."""


def arguments_of(entry: Entry) -> type[Any]:
    """`Train` with the settings of a recipe on the top level, under the name `own`."""

    def take_texts(self: Any) -> None:
        if self.texts:
            data = replace(self.own.data, paths=self.texts)
            object.__setattr__(self, "own", replace(self.own, data=data))

    own = ("own", Annotated[entry.settings, Flat], field(default_factory=entry.settings))
    return make_dataclass("Train", [own], bases=(Train,), namespace={"__post_init__": take_texts},
                          frozen=True, kw_only=True)  # fmt: skip


def run(argv: list[str]) -> int:
    """Teach, then print the receipt; 130 when stopped by Ctrl-C after the model was kept."""
    if "" in argv:  # as a path it would be the current folder with all that is in it
        raise SettingsError("data.paths", got="", wanted="a path, not an empty word: is a variable unset?")
    argv = with_value("--resume", argv)
    entry = chosen_recipe(argv)
    arguments = parse(arguments_of(entry), argv, verb="train", description=DESCRIPTION)
    if arguments.texts and any(word.partition("=")[0] == "--data.paths" for word in argv):
        given = [str(path) for path in arguments.texts]
        raise SettingsError(
            "data.paths", got=given, wanted="all of the text in one place: after --data.paths or without it"
        )
    resume, workspace = None, open_workspace(arguments.workspace)
    if arguments.resume is not None:
        resume, argv = run_to_resume(arguments, argv, workspace)
        entry = chosen_recipe(argv)
        arguments = parse(arguments_of(entry), argv, verb="train", description=DESCRIPTION)
    settings, own = arguments.train, from_anywhere(arguments.own)
    if not has_text(own):
        raise SettingsError(
            "data.paths", got=(), wanted="the text to teach: tuition train FILE, or --data.demo shakespeare"
        )
    from tuition.books.books import open_books
    from tuition.cli.terminal import open_progress
    from tuition.ledger.render import render
    from tuition.ledger.statements import training_receipt
    from tuition.train.run import Host, run_training

    workspace.create()
    machine = detect_for(settings.device, arguments.machine, workspace)
    with open_books(workspace) as books:
        host = Host(workspace, books, machine, open_progress())
        result = run_training(settings, entry.make(own), host, resume=resume)
        print(render(training_receipt(books, result.run_id)))
    score = result.probes[-1].score if result.probes else None
    if score is not None:
        error = "" if score.stderr is None else f" ± {score.stderr:.3f}"
        print(f"held-out: {score.value:.3f}{error} {score.unit}; {result.split}")
    if result.warning is not None:
        print(f"warning: {result.warning}")
    print(f"model: {result.version.reference}   use it: tuition chat {result.version.name}")
    print(f"run:   {result.folder}")
    return 0 if result.status == "finished" else 130


def chosen_recipe(argv: Sequence[str]) -> Entry:
    """The recipe that is named on the command line, else in the settings file: its options are parsed then.

    Raises: NotFoundError.
    """
    path = settings_path(argv)
    named = "pretrain" if path is None else str(read_table(path).get("recipe", "pretrain"))
    for index, word in enumerate(argv):
        if word == "--recipe" and index + 1 < len(argv):
            named = argv[index + 1]
        elif word.startswith("--recipe="):
            named = word.partition("=")[2]
    return find_recipe(named)


def with_value(option: str, argv: Sequence[str]) -> list[str]:
    """The words with an empty value behind `option` where none is given."""
    words = list(argv)
    for index, word in enumerate(words):
        if word == option and (index + 1 == len(words) or words[index + 1].startswith("-")):
            words[index] = f"{option}="
    return words


def run_to_resume(
    arguments: Any, argv: Sequence[str], workspace: Workspace
) -> tuple["RunFolder | Literal['newest']", list[str]]:
    """What to resume, and the words with the run's own settings as defaults where it was named.

    Raises: NotFoundError for an unknown run; SettingsError for a finished one.
    """
    from tuition.train.folder import find_run

    if not arguments.resume and has_text(arguments.own):
        return "newest", list(argv)
    name = arguments.train.name
    folder = find_run(workspace, arguments.resume or (name if name != TrainSettings().name else None))
    if arguments.settings is not None:  # which is then compared with the run's
        return folder, list(argv)
    return folder, ["--settings", str(folder.settings), *argv]


def has_text(own: PretrainSettings) -> bool:
    """Whether the text to teach is named."""
    return bool(own.data.paths) or own.data.demo is not None


def from_anywhere(own: PretrainSettings) -> PretrainSettings:
    """The same with whole paths: they are kept with the run, which is resumed and scored from any folder."""
    data = replace(own.data, paths=tuple(whole(path) for path in own.data.paths))
    tokenizer = None if own.tokenizer is None else whole(own.tokenizer)
    return replace(own, data=data, tokenizer=tokenizer)


def whole(path: Path) -> Path:
    """From the root, without `~` and `..`; a link to a file keeps its name, which tells the file's kind."""
    found = Path(os.path.expanduser(path)).absolute()
    return found.resolve() if found.name == ".." else found.parent.resolve() / found.name
