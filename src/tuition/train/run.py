"""`tuition train` without the terminal: text in, a registered model, its bill and its run folder out.

The order: bill opened -> tokenizer -> corpus -> model -> teaching with looks and checkpoints -> last
evaluation -> model published -> bill closed. What is killed is billed up to its last save and goes on with
`resume`; what is stopped by Ctrl-C or SIGTERM still becomes a model.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tuition.books.books import Books
from tuition.core.durable import publish_folder, write_json
from tuition.core.errors import NotFoundError, SettingsError
from tuition.core.lock import FileLock
from tuition.core.progress import Progress
from tuition.core.settings import read_settings, to_toml
from tuition.core.workspace import Workspace
from tuition.data.corpora import with_demo_titles
from tuition.data.corpus import prepare_corpus
from tuition.data.documents import sources_of
from tuition.data.sample import sample_texts
from tuition.ledger.meter import open_meter
from tuition.ledger.training import RunInfo, TrainingBill, new_run_id
from tuition.model.save import save_model
from tuition.plan.memory import require_training
from tuition.registry.lineage import Lineage
from tuition.registry.names import check_name
from tuition.registry.registry import Registry, Version
from tuition.runtime.checkpoints import Checkpoint, load_latest
from tuition.runtime.device import choose_device, prepare_process, set_threads
from tuition.runtime.memory import free_bytes
from tuition.runtime.thread_pool import pool_size
from tuition.spec.counts import num_parameters
from tuition.spec.machine import Machine
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe
from tuition.train.folder import RunFolder, unfinished_runs
from tuition.train.header import OtherTextError, changed_settings, check_same_text, make_header, why_not_exact
from tuition.train.recipes import pretrain
from tuition.train.schedule import BudgetSpan, Span, StepSpan
from tuition.train.session import Probe, Session
from tuition.train.settings import TrainSettings
from tuition.train.stop import StopRequest


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    run_id: str
    folder: Path
    """Of the run."""
    status: Literal["finished", "stopped"]
    version: Version
    """The model, as registered."""
    num_steps: int
    num_skipped: int
    """Steps that were not taken because their loss or gradient was too strange."""
    num_tokens: int
    """Target tokens seen."""
    num_parameters: int
    seconds: float
    """Of the training loop, earlier processes of the run included."""
    probes: tuple[Probe, ...]
    """Looks at held-out text on the way; the last is the final score."""
    heldout_titles: tuple[str, ...]
    split: str
    """What was held out and how, one line."""
    precision: str
    """Number format of matrix products, and why."""
    not_exact: tuple[str, ...]
    """Why the bits may differ from those of the same run done again; empty: they are the same."""
    alarms: tuple[str, ...]
    """What could not be written, the first time for each cause."""


def run_training(
    settings: TrainSettings,
    workspace: Workspace,
    books: Books,
    machine: Machine,
    progress: Progress,
    *,
    resume: RunFolder | Literal["newest"] | None = None,
    other_settings: Literal["refuse", "begin anew"] = "refuse",
) -> TrainResult:
    """Teach a model as `settings` say and register it.

    `resume`: continue this run, or the newest unfinished run of this name that has a checkpoint; when there
    is none a new run begins, and that is said. `other_settings`: what to do when the newest run has other
    settings or was taught other text.
    Raises: SettingsError, DataError, CapacityError, DivergedError, BooksError; BusyError when another process
    teaches in the same run; KeyboardInterrupt when interrupted before the first step.
    """
    check_name(settings.name)
    if settings.budget is None and settings.steps is None:
        raise SettingsError("budget", got=None, wanted="a budget like 4min, or a number of steps")
    set_threads(settings.threads)
    process = prepare_process()
    if isinstance(resume, RunFolder):
        _refuse_changes(resume, _changes(resume, settings))
        progress.say(f"resuming {resume.run_id}")
        found: RunFolder | None = resume
    else:
        found = _find_run(settings, workspace, progress, other_settings) if resume else None
    if found is None:
        sources_of(with_demo_titles(settings.data))  # no run is recorded for text that is not there
    try:
        return _run(settings, workspace, books, machine, progress, process, found)
    except OtherTextError as error:
        if found is None or other_settings == "refuse":
            raise
        progress.say(f"{found.run_id} is unfinished and its text has changed ({error}); a new run begins")
    return _run(settings, workspace, books, machine, progress, process, None)


def _run(
    settings: TrainSettings,
    workspace: Workspace,
    books: Books,
    machine: Machine,
    progress: Progress,
    process: tuple[str, ...],
    found: RunFolder | None,
) -> TrainResult:
    """Go on with the run that was found, or begin one."""
    folder = found or RunFolder(workspace.runs / new_run_id(settings.name)).create(settings)
    with (
        FileLock(folder.lock, timeout_s=1.0),
        _open_bill(settings, books, machine, folder, found is not None) as bill,
    ):
        try:
            session = _prepare(settings, workspace, folder, bill, machine, progress, process)
        except OtherTextError as error:  # it ends as it was, and no step of it failed
            bill.close("stopped", str(error))
            raise
        try:
            result = _teach_and_publish(session, Registry(workspace, books))
        finally:
            session.close()
        if result.status == "stopped":
            bill.close("stopped", "Ctrl-C or SIGTERM")
    return result


def _find_run(
    settings: TrainSettings,
    workspace: Workspace,
    progress: Progress,
    other_settings: Literal["refuse", "begin anew"],
) -> RunFolder | None:
    """The newest unfinished run with these settings that has a checkpoint, else the newest without one; None
    to begin a new run.

    A run without a checkpoint has nothing to go on from: it never hides one that has.
    """
    found = unfinished_runs(workspace, settings.name)
    changes = {folder.run_id: _changes(folder, settings) for folder in found}
    with_checkpoint = [folder for folder in found if folder.has_checkpoint]
    for folder in with_checkpoint:
        if not changes[folder.run_id]:
            progress.say(f"resuming {folder.run_id}")
            return folder
    if with_checkpoint and other_settings == "refuse":
        _refuse_changes(with_checkpoint[0], changes[with_checkpoint[0].run_id])
    for folder in found:
        if not changes[folder.run_id]:
            progress.say(f"resuming {folder.run_id}, which has no checkpoint yet: it begins at step 0")
            return folder
    if with_checkpoint:
        changed = next(iter(changes[with_checkpoint[0].run_id]))
        other = f"{with_checkpoint[0].run_id} is unfinished and has other settings ({changed})"
        progress.say(f"{other}; a new run begins")
    else:
        progress.say("nothing to resume, a new run begins")
    return None


def _changes(folder: RunFolder, settings: TrainSettings) -> dict[str, tuple[Any, Any]]:
    return changed_settings(read_settings(TrainSettings, folder.settings), settings)


def _refuse_changes(folder: RunFolder, changes: dict[str, tuple[Any, Any]]) -> None:
    """Raises: SettingsError when the settings are not those of the run to be resumed."""
    for name, (before, now) in changes.items():
        wanted = f"{before!r} as in {folder.run_id}, which is to be resumed; or leave out resume"
        raise SettingsError(name, got=now, wanted=wanted)


def _open_bill(
    settings: TrainSettings, books: Books, machine: Machine, folder: RunFolder, resumes: bool
) -> TrainingBill:
    meter = open_meter(machine)
    if resumes:
        with suppress(NotFoundError):  # killed after its folder was made and before its row was
            return TrainingBill.resume(books, meter, folder.run_id)
    info = RunInfo(settings.name, recipe=pretrain.NAME, settings_toml=to_toml(settings))
    return TrainingBill.open(books, meter, info, folder.run_id)


def _prepare(
    settings: TrainSettings,
    workspace: Workspace,
    folder: RunFolder,
    bill: TrainingBill,
    machine: Machine,
    progress: Progress,
    process: tuple[str, ...],
) -> Session:
    """Everything up to the first step."""
    with bill.overhead("data"):
        tokenizer = get_tokenizer(settings, folder, progress)
        corpus = prepare_corpus(settings.data, tokenizer, workspace.data, progress)
    with bill.overhead("load"):
        shape = settings.shape.model_shape(tokenizer.vocab_size, settings.seq_len)
        device = choose_device(settings.device)
        require_training(
            shape,
            settings.batch_size,
            settings.seq_len,
            settings.optimizer.kind,
            free_bytes(device),
            pool_size(settings.batch_size, torch.get_num_threads(), device),
        )
        state, loader = pretrain.build(settings, corpus, shape)
        header = make_header(settings, state.precision, corpus.digest, tokenizer.digest)
        header["machine"]["process"] = list(process)
        checkpoint = load_latest(folder.checkpoints)
    span: Span = _span(settings, _spent_s(checkpoint, folder, bill))
    if folder.header.is_file():
        check_same_text(json.loads(folder.header.read_text(encoding="utf-8")), header)
    if checkpoint is not None:
        check_same_text(checkpoint.state["header"], header)
        state.load(checkpoint.tensors, checkpoint.state["train"])
        bill.recount(checkpoint.state.get("bill", {"num_tokens": 0}))
    bill.describe(corpus_digest=corpus.digest, num_parameters=num_parameters(shape))
    folder.result.unlink(missing_ok=True)  # how the run ended before: it goes on
    write_json(folder.header, header)
    session = Session(
        settings, folder, state, loader, pretrain.next_token_loss, corpus, tokenizer, span, bill, machine,
        progress, header,
    )  # fmt: skip
    if checkpoint is not None:
        session.not_exact += why_not_exact(checkpoint.state["header"], header)
        session.remember(checkpoint)
        _say_resumed(checkpoint, session)
    begins = f"first weights: {settings.resolved_first_weights}"
    size = f"{num_parameters(shape):,} parameters ({begins}) on {state.device.type}"
    progress.say(f"{size}, matrix products in {state.precision.reason}")
    return session


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
    return spent_s + max(0, bill.teaching_ns - checkpoint.state.get("billed_ns", bill.teaching_ns)) / 1e9


def _span(settings: TrainSettings, spent_s: float) -> Span:
    if settings.steps is not None:
        return StepSpan(settings.steps, spent_s)
    return BudgetSpan(settings.budget_s or 0.0, spent_s)


def _say_resumed(checkpoint: Checkpoint, session: Session) -> None:
    for damage in checkpoint.skipped:
        problem = f"checkpoint {damage.path.name} is damaged ({damage.problem})"
        session.progress.say(f"{problem}; took the one before")
    exact = "exactly" if not session.not_exact else f"not bit for bit: {', '.join(session.not_exact)}"
    session.progress.say(f"goes on after step {checkpoint.step:,}, {exact}")


def get_tokenizer(settings: TrainSettings, folder: RunFolder, progress: Progress) -> Tokenizer:
    """The run's tokenizer: its own from before a resume, the one that was given, or one learned from the
    text now."""
    if folder.tokenizer.is_dir():
        return Tokenizer.load(folder.tokenizer)
    if settings.tokenizer is not None:
        given = settings.tokenizer
        tokenizer = Tokenizer.load(given) if given.is_dir() else Tokenizer.from_file(given)
    else:
        tokenizer = train_bpe(sample_texts(settings.data), settings.vocab_size, progress=progress)
    publish_folder(folder.tokenizer, tokenizer.save)
    return tokenizer


def _teach_and_publish(session: Session, registry: Registry) -> TrainResult:
    state, settings = session.state, session.settings
    with StopRequest(session.say_stopping) as stop:
        status = session.teach(stop)
        if state.step == 0:
            raise KeyboardInterrupt if stop.requested is not None else session.too_short()
        session.save()
    if stop.requested is not None:
        session.progress.say(f"{status} after step {state.step:,}; what was taught is kept")
    evaluation = settings.evaluation
    final = session.look(
        session.span.progress(state.step),
        evaluation.final_bytes if stop.requested is None else evaluation.probe_bytes,
    )
    version = _publish(session, registry, final, status)
    result = _result(session, version, status)
    session.folder.finish(_plain(result))
    session.progress.say(f"saved {version.reference}: {version.path}")
    return result


def _publish(session: Session, registry: Registry, final: Probe, status: str) -> Version:
    settings, corpus, shape = session.settings, session.corpus, session.state.model.shape
    score = final.score
    lineage = Lineage(
        corpus_digest=corpus.digest,
        tokenizer_digest=session.tokenizer.digest,
        settings=to_toml(settings),
        first_weights=settings.resolved_first_weights,
        run_id=session.folder.run_id,
        evaluation={name: value for name, value in asdict(score).items() if value is not None},
    )
    manifest: dict[str, Any] = {
        "recipe": pretrain.NAME,
        "status": status,
        "num_steps": session.state.step,
        "num_tokens": session.state.num_tokens,
        "lineage": {name: value for name, value in vars(lineage).items() if value is not None},
    }

    def write(folder: Path) -> None:
        save_model(
            folder,
            session.state.model,
            shape,
            session.tokenizer,
            manifest | {"bill": session.bill.to_table()},
            dtype=settings.save_as,
        )

    with session.bill.overhead("checkpoint"):
        version = registry.publish(settings.name, write, lineage)
    registry.record_score(version, score)
    return version


def _result(session: Session, version: Version, status: Literal["finished", "stopped"]) -> TrainResult:
    state, corpus = session.state, session.corpus
    return TrainResult(
        run_id=session.folder.run_id,
        folder=session.folder.path,
        status=status,
        version=version,
        num_steps=state.step,
        num_skipped=len(state.guard.skipped),
        num_tokens=state.num_tokens,
        num_parameters=num_parameters(state.model.shape),
        seconds=session.span.spent_s,
        probes=tuple(session.probes),
        heldout_titles=corpus.heldout_titles,
        split=corpus.describe_split(),
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
