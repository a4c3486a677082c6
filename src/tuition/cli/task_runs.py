"""Models on tasks for `eval`, `compare` and `train --check`: opened and billed like those of the server.

In: references of models and tasks.  Out: results, kept in the workspace and in the registry.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuition.core.durable import write_durably
from tuition.core.errors import NotFoundError, SettingsError
from tuition.core.progress import Progress
from tuition.engine.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuition.books.books import Books
    from tuition.core.workspace import Workspace
    from tuition.evals.result import TaskResult
    from tuition.evals.task_file import Task
    from tuition.registry.registry import Registry, Version
    from tuition.spec.machine import Machine


@dataclass(frozen=True)
class TaskRuns:
    """Where and how models are run."""

    workspace: "Workspace"
    books: "Books"
    machine: "Machine"
    settings: EngineSettings
    progress: Progress

    def results(self, reference: str, tasks: "Sequence[Task]", *, reuse: bool = False) -> "list[TaskResult]":
        """One result per task; the model is loaded once, and not at all where every result is kept.

        `reuse`: take kept results of the same weights, tokenizer, settings, task and price of the machine.
        Raises: TuitionError of the model, the engine and the tasks.
        """
        if reference.startswith(("http://", "https://")):
            return remote_results(reference, tasks, self.progress)
        from tuition.desk.engine import Engine
        from tuition.evals.result import read_result, write_result
        from tuition.evals.run import Respondent, run_task
        from tuition.registry.registry import Registry

        registry = Registry(self.workspace, self.books)
        subject = subject_of(reference, registry)
        places = [self._place(subject, task) for task in tasks]
        kept = [read_result(place) if reuse else None for place in places]
        found = {
            index: replace(result, model=subject.name)
            for index, result in enumerate(kept)
            if result is not None
        }
        if len(found) == len(tasks):
            return list(found.values())
        with Engine(
            reference,
            workspace=self.workspace,
            books=self.books,
            machine=self.machine,
            settings=self.settings,
            progress=self.progress,
        ) as engine:
            model = Respondent(engine, engine.cost_of, subject.name, subject.digest)
            for index, (task, place) in enumerate(zip(tasks, places, strict=True)):
                if index not in found:
                    found[index] = run_task(task, model, self.progress)
                    write_result(place, found[index])
                    if subject.version is not None:
                        registry.record_score(subject.version, found[index].score())
        return [found[index] for index in range(len(tasks))]

    def _place(self, subject: "Subject", task: "Task") -> Path:
        from tuition.evals.result import result_key
        from tuition.ledger.rates import Rate

        machine = self.machine
        rate = [asdict(Rate.from_machine(machine)), machine.idle_watts, machine.full_watts]
        settings = {"text": subject.text_digest, "engine": asdict(self.settings), "rate": rate}
        key = result_key(task.digest, subject.digest, settings)
        return self.workspace.evaluations / f"{key}.jsonl"


@dataclass(frozen=True)
class Subject:
    """What is evaluated."""

    name: str
    """`name@version`, or the path as it was given."""
    version: "Version | None"
    digest: str
    """Of the weights; of an adapter: its base's and its own."""
    text_digest: str
    """Of the tokenizer and the chat template."""


def subject_of(reference: str, registry: "Registry") -> Subject:
    """The model that a reference names. Raises: NotFoundError, ModelError."""
    from tuition.desk.references import find_reference

    found = find_reference(reference, registry)
    registered = found.base.version is not None
    base = registry.get(f"{found.base.name}@{found.base.version}") if registered else None
    version = found.adapter or base
    digests = [found.folder.digest() if base is None else base.digest]
    if found.adapter is not None:
        digests.append(found.adapter.digest)
    return Subject(
        name=reference if version is None else version.reference,
        version=version,
        digest=" ".join(digests),
        text_digest=found.folder.tokenizer().text_digest,
    )


def remote_results(address: str, tasks: "Sequence[Task]", progress: Progress) -> "list[TaskResult]":
    """One result per task from a model of a server, `URL` or `URL#MODEL`; the key is $TUITION_API_KEY.

    Raises: ClientError; NotFoundError where the server has no such model, or several and none is named.
    """
    from tuition.client.listen import call
    from tuition.client.tasks import ask_task

    url, _, wanted = address.partition("#")
    key = os.environ.get("TUITION_API_KEY")
    models = call(url, key, lambda api: api.models())
    named = [model for model in models if wanted in ("", model.name)]
    if len(named) != 1:
        known = [f"{url}#{model.name}" for model in models]
        raise NotFoundError("model at the server", address, known, if_none="it serves none")
    return [
        replace(call(url, key, lambda api, task=task: ask_task(api, named[0], task, progress)), model=address)
        for task in tasks
    ]


def read_tasks(paths: "Sequence[Path]", option: str = "--tasks") -> "list[Task]":
    """Task files with names of their own; `option` names them. Raises: DataError, SettingsError."""
    from tuition.evals.task_file import read_task

    tasks = [read_task(path.expanduser(), option) for path in paths]
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(option, got=f"two of the name {name!r}", wanted="another name in one header")
    return tasks


def check_forms(reference: str, tasks: "Sequence[Task]", registry: "Registry") -> None:
    """Refuse tasks that a model cannot be asked, before any time is spent. Raises: SettingsError;
    NotFoundError, ModelError."""
    from tuition.desk.references import find_reference
    from tuition.evals.run import check_form

    tokenizer = find_reference(reference, registry).folder.tokenizer()
    for task in tasks:
        check_form(task, tokenizer)


def before_and_after(runs: TaskRuns, before: str, after: str, tasks: "Sequence[Task]") -> str:
    """A table: each task before and after teaching, both with intervals, and the paired difference.

    Kept results are taken over, so that the first model is asked once however often it is taught.
    """
    from tuition.cli.bill_tables import aligned
    from tuition.evals.compare import compare
    from tuition.evals.report import BEFORE_AFTER_HEAD, before_after_row

    a, b = (runs.results(reference, tasks, reuse=True) for reference in (before, after))
    rows = [before_after_row(compare(*both)) for both in zip(a, b, strict=True)]
    return aligned([BEFORE_AFTER_HEAD, *rows], left=(0,))


def check_keep(path: Path | None, tasks: "Sequence[Task]") -> None:
    """Before anything runs. Raises: SettingsError where replies cannot be written, or replace a task."""
    if path is None:
        return
    place = path.expanduser()
    if place.is_dir():
        raise SettingsError("keep", got=str(path), wanted="a file; this is a folder")
    if place.exists() and any(place.samefile(task.path) for task in tasks):
        raise SettingsError("keep", got=str(path), wanted="another file: this one is a task")


def keep(path: Path, results: "Sequence[TaskResult]") -> None:
    """Write every reply of the results as one line. Raises: SettingsError."""
    from tuition.evals.report import kept_row

    rows = (kept_row(result, item) for result in results for item in result.items)
    try:
        write_durably(path.expanduser(), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    except OSError as error:
        wanted = f"a file that can be written ({error.strerror})"
        raise SettingsError("keep", got=str(path), wanted=wanted) from error
