"""`tuition train`: teach a model from your own text or examples, within a budget of time, steps or epochs."""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tuition.cli.arguments import Common, Flat, parse, settings_path
from tuition.cli.machine import measured_for
from tuition.core.errors import SettingsError
from tuition.core.settings import read_table
from tuition.core.workspace import Workspace, open_workspace
from tuition.registry.hub_files import PREFIX as HUB
from tuition.spec.settings import MachineSettings
from tuition.train.recipes.base_settings import BaseSettings
from tuition.train.recipes.table import RECIPES, Entry, find_recipe
from tuition.train.settings import TrainSettings

if TYPE_CHECKING:
    from tuition.evals.task_file import Task
    from tuition.registry.registry import Registry
    from tuition.train.folder import RunFolder

DEFAULT = "pretrain"
OF_FRESH_WEIGHTS = ("--shape.", "--vocab-size", "--tokenizer", "--first-weights")
"""Options of pretraining that a base model leaves no room for."""

DESCRIPTION = """Teach a new model from text, or fine-tune an existing one (--from) on your examples or text.
Ctrl-C stops the training, saves the model and bills the run.

Examples:
  tuition train my.txt --budget 5min
  tuition train --from smollm2-135m-instruct --data.paths tickets.jsonl --name support --budget 5min
  tuition train notes/ more.jsonl --data.field story --name mine --budget 1h"""


@dataclass(frozen=True, kw_only=True)
class Train(Common):
    """What `tuition train` takes, whatever the recipe; `arguments_of` adds the recipe's own settings."""

    texts: tyro.conf.Positional[tuple[Path, ...]] = ()
    """What to teach: files or folders of them; the same as --data.paths."""
    recipe: Literal[tuple(RECIPES)] | None = None  # type: ignore[valid-type]
    """The way of training; the options below are those of this one. Default: pretrain; with --from finetune
    for files of examples, continue for plain text."""
    resume: Annotated[str | None, tyro.conf.arg(metavar="[RUN]")] = None
    """Continue a run, named by its id or its model; its settings need not be given again. Without a name: the
    newest unfinished run that has a checkpoint. Settings that are given must be those of the run."""
    check: tuple[Path, ...] = ()
    """With --from: task files (.task.jsonl) that base and result answer at the end, for right answers before
    and after."""
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
            "data.paths", got=(), wanted="what to teach: tuition train FILE, or --data.demo shakespeare"
        )
    settings.require_length()
    tasks = tasks_to_check(arguments)
    from tuition.books.books import open_books
    from tuition.registry.registry import Registry

    workspace.create()
    if resume is None and hasattr(own, "base"):
        with open_books(workspace) as books:
            check_base(own, tasks, Registry(workspace, books))
    from tuition.cli.changes import change_table
    from tuition.cli.task_runs import TaskRuns, before_and_after
    from tuition.cli.terminal import open_progress
    from tuition.engine.settings import EngineSettings
    from tuition.ledger.render import render
    from tuition.ledger.statements import training_receipt
    from tuition.train.run import Host, run_training

    machine = measured_for(settings, arguments.machine, workspace)
    with open_books(workspace) as books:
        host = Host(workspace, books, machine, open_progress())
        if arguments.recipe is None and entry.name != DEFAULT:
            host.progress.say(f"recipe: {entry.name}, chosen from the files (--recipe names another)")
        result = run_training(settings, entry.make(own), host, resume=resume)
        receipt = training_receipt(books, result.run_id)
        print(render(receipt))
        if tasks and result.status == "finished":
            runs = TaskRuns(workspace, books, machine, EngineSettings(), host.progress)
            lineage = result.version.lineage
            before = lineage.adapter or lineage.parent or own.base
            print(before_and_after(runs, before, result.version.reference, tasks))
    score = result.probes[-1].score if result.probes else None
    if result.changes:
        print(f"{change_table(result.changes, receipt.total)}\n{result.split}")
    elif score is not None:
        error = "" if score.stderr is None else f" ± {score.stderr:.3f}"
        print(f"held-out: {score.value:.3f}{error} {score.unit}; {result.split}")
    if result.warning is not None:
        print(f"warning: {result.warning}")
    print(f"model: {result.version.reference}   use it: tuition chat {result.version.name}")
    print(f"run:   {result.folder}")
    return 0 if result.status == "finished" else 130


def tasks_to_check(arguments: Any) -> "list[Task]":
    """The tasks of --check. Raises: SettingsError without a base; DataError."""
    if arguments.check and getattr(arguments.own, "base", None) is None:
        wanted = (
            "nothing without --from: there is no model before; afterwards: tuition eval MODEL --tasks FILE"
        )
        raise SettingsError("check", got=[str(path) for path in arguments.check], wanted=wanted)
    from tuition.cli.task_runs import read_tasks

    return read_tasks(arguments.check, "--check")


def check_base(own: BaseSettings, tasks: "Sequence[Task]", registry: "Registry") -> None:
    """Refuse a base that cannot be taught, before torch is loaded and anything is measured.

    Raises: SettingsError, NotFoundError, ModelError.
    """
    from tuition.cli.task_runs import check_forms
    from tuition.model.adapter_folder import is_adapter
    from tuition.model.folder import open_model

    base = own.require_base()
    found = registry.find(base)
    if isinstance(found, Path) and not is_adapter(found):
        open_model(found, verify=False)
    if tasks:
        check_forms(base, tasks, registry)


OF_EXAMPLES = ("form", "prompt_field", "completion_field", "messages_field")
"""Data settings that say that the files hold examples."""


def chosen_recipe(argv: Sequence[str]) -> Entry:
    """The recipe that is named on the command line, else in the settings file, else the one for these files:
    its options are parsed then.

    Raises: NotFoundError; SettingsError for options that a base model leaves no room for.
    """
    path = settings_path(argv)
    table = {} if path is None else read_table(path)
    named = (values_of("--recipe", argv) or [table.get("recipe")])[-1]
    if named is not None:
        return find_recipe(str(named))
    if not values_of("--from", argv) and "base" not in table:
        return find_recipe(DEFAULT)
    for word in argv:
        if word.startswith(OF_FRESH_WEIGHTS):
            wanted = "no such option with --from: the base has its shape and its tokenizer"
            raise SettingsError(word.partition("=")[0], got=word, wanted=wanted)
    from tuition.data.examples import kind_of_data
    from tuition.data.settings import ExampleSettings

    in_file = table.get("data", {})
    paths = files_in(argv) or [Path(path) for path in in_file.get("paths", [])]
    words = {word.partition("=")[0].replace("-", "_") for word in argv}
    if "__data.demo" in words or "demo" in in_file:  # these are plain text
        return find_recipe("continue")
    if not paths or any(f"__data.{name}" in words or name in in_file for name in OF_EXAMPLES):
        return find_recipe("finetune")
    text_field = [str(in_file.get("field", "text")), *values_of("--data.field", argv)][-1]
    kind = kind_of_data(ExampleSettings(paths=tuple(map(whole, paths))), text_field)
    return find_recipe("finetune" if kind == "examples" else "continue")


def values_of(option: str, argv: Sequence[str]) -> list[str]:
    """The values that are given for an option, before the words are parsed."""
    found = []
    for word, following in itertools.zip_longest(argv, argv[1:]):
        if word == option and following is not None:
            found.append(following)
        elif word.startswith(f"{option}="):
            found.append(word.partition("=")[2])
    return found


def files_in(argv: Sequence[str]) -> list[Path]:
    """Files and folders to teach among the words, before they are parsed."""
    found = []
    for before, word in itertools.pairwise(["", *argv]):
        is_value = before.startswith("--") and "=" not in before and before != "--data.paths"
        if word and not word.startswith("-") and not is_value and Path(word).expanduser().exists():
            found.append(Path(word))
        elif word.startswith("--data.paths=") and (value := word.partition("=")[2]):
            found.append(Path(value))
    return found


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


def has_text(own: Any) -> bool:
    """Whether it is named what to teach."""
    return bool(own.data.paths) or getattr(own.data, "demo", None) is not None


def from_anywhere(own: Any) -> Any:
    """The same settings with whole paths: they are kept with the run, which is resumed and scored from any
    folder."""
    changed: dict[str, Any] = {}
    for part in dataclasses.fields(own):
        value = getattr(own, part.name)
        if dataclasses.is_dataclass(value):
            changed[part.name] = from_anywhere(value)
        elif isinstance(value, Path):
            changed[part.name] = whole(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Path):
            changed[part.name] = tuple(map(whole, value))
        elif part.name == "base" and value and os.sep in value and not value.startswith(HUB):
            changed[part.name] = str(whole(Path(value)))
    return replace(own, **changed)


def whole(path: Path) -> Path:
    """From the root, without `~` and `..`; a link to a file keeps its name, which tells the file's kind."""
    found = Path(os.path.expanduser(path)).absolute()
    return found.resolve() if found.name == ".." else found.parent.resolve() / found.name
