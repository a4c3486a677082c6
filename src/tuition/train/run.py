"""`tuition train` without the terminal: a recipe in, a registered model, its bill and its run folder out.

The order: data checked -> bill opened -> data prepared -> model built -> training with evaluations and
checkpoints -> last evaluation -> model published -> bill closed. A run that is killed is billed up to its
last save and can be resumed; one that is stopped by Ctrl-C or SIGTERM still becomes a model.
"""

import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tuition.books.books import Books
from tuition.core.durable import write_json
from tuition.core.errors import NotFoundError, TuitionError
from tuition.core.lock import FileLock
from tuition.core.progress import Progress
from tuition.core.settings import table_to_toml, to_table
from tuition.core.workspace import Workspace
from tuition.ledger.meter import Meter, open_meter
from tuition.ledger.training import RunInfo, TrainingBill, new_run_id
from tuition.registry.names import check_name
from tuition.registry.registry import Registry, Version
from tuition.runtime.checkpoints import Checkpoint, load_latest
from tuition.runtime.device import choose_device, choose_precision, prepare_process, set_threads
from tuition.runtime.group import ALONE
from tuition.runtime.seed import seed_all
from tuition.runtime.thread_pool import NO_POOL, ThreadPool
from tuition.spec.machine import Machine
from tuition.train.change import Change
from tuition.train.folder import RunFolder
from tuition.train.header import OtherDataError, check_same_data, make_header, settings_table, why_not_exact
from tuition.train.listeners import JsonLog, Listener, TensorBoardLog
from tuition.train.loop import peak_lr
from tuition.train.probe import Probe, described
from tuition.train.recipe import Recipe, RunContext, TrainingTask
from tuition.train.resume import OtherSettings, newest_run, require_same_settings, span_left
from tuition.train.session import Session
from tuition.train.settings import MOST, TrainSettings, wants
from tuition.train.state import TrainState
from tuition.train.stop import StopRequest


@dataclass(frozen=True)
class Host:
    """Workspace, machine and listeners of a run."""

    workspace: Workspace
    books: Books
    machine: Machine
    progress: Progress
    listeners: tuple[Listener, ...] = ()
    """Told of every step, evaluation and event, after the run's own logs."""
    clock: Callable[[], float] = time.monotonic
    """Seconds, for the budget and the checkpoints."""
    meter: Meter | None = None
    """Measures what is billed. Default: the machine's own."""


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run."""

    run_id: str
    folder: Path
    """Of the run."""
    status: Literal["finished", "stopped"]
    version: Version
    """The model, as registered."""
    num_steps: int
    num_skipped: int
    """Steps that were skipped because of their loss or gradient."""
    num_units: int
    """Target tokens, images, windows seen."""
    unit: str
    num_parameters: int
    seconds: float
    """Of the training loop, earlier processes of the run included."""
    probes: tuple[Probe, ...]
    """Evaluations during the run; the last is the final score."""
    split: str
    """What was held out and how, one line."""
    warning: str | None
    """A warning that the model is of little use, with the reason; None: no warning."""
    kept_step: int
    """The step whose weights are the model: the last, or the one with the best score."""
    changes: tuple[Change, ...]
    """What training has changed, where it began from a model."""
    precision: str
    """Number format of matrix products, and why."""
    not_exact: tuple[str, ...]
    """Reasons why a repeated run may give other bits; empty: it gives the same bits."""
    alarms: tuple[str, ...]
    """What could not be written, the first time for each cause."""


@dataclass(frozen=True)
class _Run:
    """One run: recipe, settings and host."""

    settings: TrainSettings
    recipe: Recipe
    host: Host
    process: tuple[str, ...]
    """What could be set for the whole process, for the header."""
    table: dict[str, Any] = field(init=False)
    """The settings of the run and of its recipe, as they were given."""

    @property
    def registry(self) -> Registry:
        return Registry(self.host.workspace, self.host.books)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", settings_table(self.settings, self.recipe))


def run_training(
    settings: TrainSettings,
    recipe: Recipe,
    host: Host,
    *,
    resume: RunFolder | Literal["newest"] | None = None,
    other_settings: OtherSettings = "refuse",
) -> TrainResult:
    """Train a model by this recipe and register it.

    `resume`: continue this run, or the newest unfinished run of this name that has a checkpoint; if there
    is none, a new run begins with a message. `other_settings`: what to do when the newest run has other
    settings or was taught other data.
    Raises: SettingsError, DataError, CapacityError, DivergedError, BooksError; BusyError when another process
    trains in the same run; KeyboardInterrupt when interrupted before the first step.
    """
    check_name(settings.name)
    settings.require_length()
    set_threads(settings.threads)
    run = _Run(settings, recipe, host, prepare_process())
    found: RunFolder | None = None
    if isinstance(resume, RunFolder):
        require_same_settings(resume, settings, recipe)
        host.progress.say(f"resuming {resume.run_id}")
        found = resume
    elif resume == "newest":
        found = newest_run(settings, recipe, host.workspace, host.progress, other_settings)
    try:
        return _execute(run, found)
    except OtherDataError as error:
        if found is None or other_settings == "refuse":
            raise
        host.progress.say(
            f"{found.run_id} is unfinished and its data has changed ({error}); a new run begins"
        )
    return _execute(run, None)


def _execute(run: _Run, found: RunFolder | None) -> TrainResult:
    """Continue the run that was found, or begin one."""
    host, name = run.host, run.settings.name
    if found is None:
        run.recipe.check(run.registry)  # no run is recorded for data that is not there
    folder = found or RunFolder(host.workspace.runs / new_run_id(name)).create(table_to_toml(run.table))
    with FileLock(folder.lock, timeout_s=1.0), _open_bill(run, folder, found is not None) as bill:
        try:
            session = _prepare(run, folder, bill)
        except OtherDataError as error:  # it ends as it was, and no step of it failed
            bill.close("stopped", str(error))
            raise
        except TuitionError:
            if found is None:  # there is nothing that could be resumed; the books keep what it cost
                shutil.rmtree(folder.path, ignore_errors=True)
            raise
        try:
            result = _train_and_publish(run, session)
        finally:
            session.close()
        if result.status == "stopped":
            bill.close("stopped", "Ctrl-C or SIGTERM")
    return result


def _open_bill(run: _Run, folder: RunFolder, resumes: bool) -> TrainingBill:
    books, meter = run.host.books, run.host.meter or open_meter(run.host.machine)
    if resumes:
        with suppress(NotFoundError):  # killed after its folder was made and before its row was
            return TrainingBill.resume(books, meter, folder.run_id)
    recipe = run.recipe
    info = RunInfo(run.settings.name, recipe.name, recipe.unit, settings_toml=table_to_toml(run.table))
    return TrainingBill.open(books, meter, info, folder.run_id)


def _prepare(run: _Run, folder: RunFolder, bill: TrainingBill) -> Session:
    """Everything up to the first step."""
    settings, recipe, host = run.settings, run.recipe, run.host
    device = choose_device(settings.device)
    context = RunContext(
        settings=settings,
        folder=folder,
        workspace=host.workspace,
        registry=run.registry,
        progress=host.progress,
        device=device,
        precision=choose_precision(settings.precision, device),
        pool=NO_POOL,
        group=ALONE,
    )
    with bill.overhead("data"):
        data = recipe.prepare(context)
    pool = ThreadPool.for_rows(recipe.max_shares(data), torch.get_num_threads(), device)
    context = replace(context, pool=pool)
    with bill.overhead("load"):
        seed_all(settings.seed)
        task = recipe.build(context, data)
        settings = settled(settings, task)
        context = replace(context, settings=settings)
        state = TrainState.fresh(task.model, settings, device, context.precision, context.pool, context.group)
        header = make_header(run.table, context.precision, task.digests)
        header["machine"]["process"] = list(run.process)
        checkpoint = load_latest(folder.checkpoints)
    if task.compares:
        with bill.overhead("evaluation"):
            host.progress.say(f"before: {described(task.evaluate('before').score)}")
    if folder.header.is_file():
        check_same_data(json.loads(folder.header.read_text(encoding="utf-8")), header, task.digests)
    if checkpoint is not None:
        check_same_data(checkpoint.state["header"], header, task.digests)
        state.load(checkpoint.tensors, checkpoint.state["train"])
        bill.recover(checkpoint.state["bill"])
    span = span_left(settings, checkpoint, folder, bill, host.clock)
    num_parameters = sum(parameter.numel() for parameter in task.model.parameters())
    bill.describe(corpus_digest=task.digests.get("corpus"), num_parameters=num_parameters)
    folder.result.unlink(missing_ok=True)  # how the run ended before: it continues
    write_json(folder.header, header)
    peak_flops = host.machine.peak_flops
    logs: tuple[Listener, ...] = (
        JsonLog(folder.log, peak_flops, state.step),
        TensorBoardLog(folder.tensorboard, peak_flops, recipe.unit, state.step),
    )
    session = Session(
        context, task, recipe.unit, state, span, bill, (*logs, *host.listeners), header, host.clock
    )
    if checkpoint is not None:
        session.not_exact += why_not_exact(checkpoint.state["header"], header)
        session.remember(checkpoint)
        _say_resumed(checkpoint, session)
    num_trained = sum(value.numel() for value in task.model.parameters() if value.requires_grad)
    trained = "" if num_trained == num_parameters else f", {num_trained:,} of them trained,"
    size = f"{num_parameters:,} parameters{trained} on {device.type}"
    host.progress.say(f"{size}, matrix products in {context.precision.reason}")
    host.progress.say(f"{settings.optimizer.kind}, peak learning rate {peak_lr(settings):g}")
    return session


def settled(settings: TrainSettings, task: TrainingTask[Any]) -> TrainSettings:
    """The settings with what only the task knows: its optimizer, and the steps of an epoch."""
    filled = replace(settings, optimizer=settings.optimizer.filled(task.optimizer))
    if settings.epochs is None:
        return filled
    steps = math.ceil(settings.epochs * task.epoch_batches / settings.accumulation - 1e-9)
    wants(steps <= MOST, "epochs", settings.epochs, f"fewer: {steps:,} steps are more than {MOST:,}")
    return replace(filled, epochs=None, steps=max(1, steps))


def _say_resumed(checkpoint: Checkpoint, session: Session) -> None:
    for damage in checkpoint.skipped:
        problem = f"checkpoint {damage.path.name} is damaged ({damage.problem})"
        session.progress.say(f"{problem}; took the one before")
    exact = "exactly" if not session.not_exact else f"not bit for bit: {', '.join(session.not_exact)}"
    session.progress.say(f"continues after step {checkpoint.step:,}, {exact}")


def _train_and_publish(run: _Run, session: Session) -> TrainResult:
    state = session.state
    with StopRequest(session.say_stopping) as stop:
        status = session.teach(stop)
        if state.step == 0:
            raise KeyboardInterrupt if stop.requested is not None else session.too_short()
        session.save()
    if stop.requested is not None:
        session.progress.say(f"{status} after step {state.step:,}; what was taught is kept")
    kept_step = session.choose()
    final = session.evaluate(
        session.span.progress(state.step), "final" if stop.requested is None else "interim"
    )
    version = _publish(run, session, final, status, kept_step)
    result = _result(session, version, status, kept_step)
    session.context.folder.finish(_plain(result))
    session.progress.say(f"saved {version.reference}: {version.path}")
    return result


def _publish(run: _Run, session: Session, final: Probe, status: str, kept_step: int) -> Version:
    registry = run.registry
    lineage = replace(
        session.task.lineage(),
        settings=table_to_toml(run.table),
        run_id=session.context.folder.run_id,
        evaluation={name: value for name, value in asdict(final.score).items() if value is not None},
    )
    manifest: dict[str, Any] = {
        "recipe": run.recipe.name,
        "status": status,
        "num_steps": session.state.step,
        "kept_step": kept_step,
        "optimizer": to_table(session.settings.optimizer),
        f"num_{run.recipe.unit}s": session.state.num_units,
        "lineage": {name: value for name, value in vars(lineage).items() if value is not None},
    }

    def write(folder: Path) -> None:
        session.task.write(folder, manifest | {"bill": session.bill.to_table()})

    with session.bill.overhead("checkpoint"):
        version = registry.publish(run.settings.name, write, lineage)
    run_id = session.context.folder.run_id
    further = () if session.last is None else session.last.further
    for score in (*(replace(score, run_id=run_id) for score in further), final.score):
        registry.record_score(version, score)  # the last one stands for the model in lists
    return version


def _result(
    session: Session, version: Version, status: Literal["finished", "stopped"], kept_step: int
) -> TrainResult:
    state, last = session.state, session.last
    return TrainResult(
        run_id=session.context.folder.run_id,
        folder=session.context.folder.path,
        status=status,
        version=version,
        num_steps=state.step,
        num_skipped=len(state.guard.skipped),
        num_units=state.num_units,
        unit=session.unit,
        num_parameters=sum(parameter.numel() for parameter in state.model.parameters()),
        seconds=session.span.spent_s,
        probes=tuple(session.probes),
        split=session.task.split,
        warning=None if last is None else last.warning,
        kept_step=kept_step,
        changes=() if last is None else last.changes,
        precision=state.precision.reason,
        not_exact=tuple(session.not_exact),
        alarms=tuple(session.alarms),
    )


def _plain(result: TrainResult) -> dict[str, Any]:
    """The result as JSON values."""
    values: dict[str, Any] = asdict(result)
    values["folder"] = str(result.folder)
    values["version"] = {"reference": result.version.reference, "digest": result.version.digest}
    return values
