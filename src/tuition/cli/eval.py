"""`tuition eval`: a model on tasks, or how many bits it needs for one byte of text it was not taught."""

from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from tuition.cli.arguments import Common, parse
from tuition.cli.machine import detect_for
from tuition.core.errors import SettingsError
from tuition.core.units import format_duration, format_energy, format_usd
from tuition.core.workspace import open_workspace
from tuition.data.settings import DataSettings
from tuition.engine.settings import DeviceKind, EngineSettings, Precision, RunnerKind
from tuition.spec.settings import MachineSettings

if TYPE_CHECKING:
    from tuition.registry.registry import Registry, Version

DESCRIPTION = """Score a model on tasks or on text. The model is computed as `tuition serve` does it.

With --tasks: the share of right answers with a 95 % interval, and the cost of an answer. Replies are billed
like those of the server. A task is a .jsonl file: a header, then one item per line.
  {"task": "orders", "kind": "json", "form": "chat", "system": "Return the order as JSON.", "max_tokens": 80}
  {"prompt": "Please send 12 desk lamps.", "target": {"item": "desk lamps", "quantity": 12}}

The kind of a task:
  choice   "right" is the index of one of "choices"; it must have the highest log-likelihood
           ("normalize": "bytes" divides each by the length of the choice)
  exact    "target" is a text or a list of texts; the reply must equal one
  number   "target" is a number; it must be the last number in the reply
  regex    "target" is a pattern; the reply must contain it
  json     "target" is an object; the reply must be JSON that equals it; otherwise
           the share of right fields is its score
  python   the header names "function": "FILE.py:NAME"; it gets item and reply,
           in a process without network

Without --tasks: bits per byte of held-out text, with the standard error over documents. Lower is better;
models with different tokenizers can be compared. Without --data.paths or --data.demo, the text is what the
model's own training held out."""
OF_TEXT = ("part", "max_bytes", "window", "stride")
"""Settings of bits per byte alone, beside those of the data."""
OTHER_TASK = "bits per byte of other text"
"""Of text that was named, without what the model is known to have been taught."""


@dataclass(frozen=True, kw_only=True)
class Eval(Common):
    """What `tuition eval` takes."""

    model: tyro.conf.Positional[str]
    """Name, name@version, folder or GGUF file; with --tasks also the address of an OpenAI-compatible server,
    http://HOST:PORT#MODEL."""
    tasks: tuple[Path, ...] = ()
    """Task files (.jsonl)."""
    keep: Path | None = None
    """With --tasks: write every reply, with its tokens and its cost, to this .jsonl file."""
    data: DataSettings = field(default_factory=DataSettings)
    """The text, by its paths or demo; with neither, that of the model's own run, split as it was there."""
    part: Literal["heldout", "train"] = "heldout"
    """Which part of the text to score; train shows how much the model memorized."""
    max_bytes: int | None = None
    """Score about this many bytes. Default: all of them."""
    window: int | None = None
    """Tokens in one forward pass. Default: the model's context."""
    stride: int | None = None
    """New tokens per window. Default: half a window. Less is slower and gives each token more context."""
    precision: Precision = "auto"
    """Number format of the weights, as for serving: auto scores what `tuition serve` serves by default."""
    runner: RunnerKind = "auto"
    """What executes the network, as for serving."""
    device: DeviceKind = "auto"
    """Where to compute."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """Values that you know for this machine and its price."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "window", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(name, got=value, wanted="at least 1, or left out")
        if self.keep is not None and not self.tasks:
            raise SettingsError("keep", got=str(self.keep), wanted="--tasks beside it")
        if self.tasks:
            defaults = {each.name: each.default for each in fields(Eval)}
            given = [(name, getattr(self, name), defaults[name]) for name in OF_TEXT]
            given += [
                (f"data.{name}", vars(self.data)[name], it) for name, it in vars(DataSettings()).items()
            ]
            for name, got, default in given:
                if got != default:
                    wanted = "it without --tasks: it is a setting of bits per byte"
                    raise SettingsError(name, got=got, wanted=wanted)


def run(argv: list[str]) -> int:
    """Score, print, and keep the score with the model's version."""
    arguments = parse(Eval, argv, verb="eval", description=DESCRIPTION)
    return on_tasks(arguments) if arguments.tasks else on_text(arguments)


def on_tasks(arguments: Eval) -> int:
    """Accuracy and cost of each task."""
    from tuition.books.books import open_books
    from tuition.cli.bill_tables import aligned
    from tuition.cli.task_runs import TaskRuns, check_keep, keep, read_tasks
    from tuition.cli.terminal import HeldBack, open_progress
    from tuition.evals.report import RESULT_HEAD, notes, result_row

    tasks = read_tasks(arguments.tasks)
    check_keep(arguments.keep, tasks)
    workspace = open_workspace(arguments.workspace).create()
    machine = detect_for(arguments.device, arguments.machine, workspace)
    engine = EngineSettings(precision=arguments.precision, runner=arguments.runner, device=arguments.device)
    with open_books(workspace) as books:
        runs = TaskRuns(workspace, books, machine, engine, HeldBack(open_progress()))
        results = runs.results(arguments.model, tasks)
    print(aligned([RESULT_HEAD, *map(result_row, results)], left=(0,)))
    for line in notes(results):
        print(line)
    if arguments.keep is not None:
        keep(arguments.keep, results)
        print(f"replies: {arguments.keep}")
    return 0


def on_text(arguments: Eval) -> int:
    """Bits per byte."""
    from tuition.books.books import open_books
    from tuition.cli.terminal import open_progress
    from tuition.data.corpus import prepare_corpus
    from tuition.engine.runner_choice import open_runner
    from tuition.evals.bits_per_byte import Windows, evaluate, most_rows
    from tuition.evals.own_text import never_taught, own_corpus
    from tuition.ledger.meter import open_meter
    from tuition.model.folder import open_model
    from tuition.registry.registry import Registry
    from tuition.train.scoring import HELDOUT_TASK

    workspace = open_workspace(arguments.workspace).create()
    progress = open_progress()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        version = registered(registry, arguments.model)
        check_text(arguments, version)
        meter = open_meter(detect_for(arguments.device, arguments.machine, workspace))
        start = meter.start()
        folder = open_model(registry.resolve(arguments.model) if version is None else version.path)
        tokenizer = folder.tokenizer()
        if not names_text(arguments) and version is not None:
            corpus = own_corpus(version.lineage, tokenizer, workspace.data, progress)
        else:
            corpus = prepare_corpus(arguments.data, tokenizer, workspace.data, progress)
        text = corpus.heldout if arguments.part == "heldout" else corpus.train
        if names_text(arguments) and arguments.part == "heldout":
            text = never_taught(text, registry, version, tokenizer, progress)
        engine = EngineSettings(
            precision=arguments.precision,
            runner=arguments.runner,
            device=arguments.device,
            max_batch=most_rows(folder.shape.context_length),
        )
        with closing(open_runner(folder, engine, progress)[0]) as runner:
            score = evaluate(
                runner,
                tokenizer,
                text,
                task=OTHER_TASK if names_text(arguments) else HELDOUT_TASK,
                windows=Windows(arguments.window, arguments.stride),
                max_bytes=arguments.max_bytes,
                progress=progress,
            )
        window = meter.stop(start)
        bits = score.bits_per_byte
        error = "" if bits.stderr is None else f" ± {bits.stderr:.4f}"
        print(f"{bits.value:.4f}{error} bits per byte over {bits.num_bytes:,} bytes ({arguments.part})")
        print(f"perplexity {score.perplexity:,.2f} per token; {bits.method}")
        if score.titles:
            print(f"scored: {', '.join(score.titles[:8])}{', ...' if len(score.titles) > 8 else ''}")
        print(
            f"took {format_duration(window.wall_ns / 1e9)}, {format_energy(window.energy_uj)}, "
            f"{format_usd(window.cost_nusd)} (not booked: an evaluation belongs to no run or request)"
        )
        if version is not None and arguments.part == "heldout" and arguments.max_bytes is None:
            registry.record_score(version, replace(bits, data_digest=corpus.digest))
    return 0


def registered(registry: "Registry", reference: str) -> "Version | None":
    """The registered version, or None for a path. Raises: NotFoundError if it is neither."""
    found = registry.find(reference)
    return None if isinstance(found, Path) else found


def names_text(arguments: Eval) -> bool:
    """Whether the text was named, and is not that of the model's own run."""
    return bool(arguments.data.paths or arguments.data.demo)


def check_text(arguments: Eval, version: "Version | None") -> None:
    """Text is named, or the model has its own text. Raises: SettingsError."""
    if names_text(arguments):
        return
    for name, default in vars(DataSettings()).items():
        if (got := getattr(arguments.data, name)) != default:
            wanted = "also --data.paths or --data.demo; the split of the model's own text cannot change"
            raise SettingsError(f"data.{name}", got=got, wanted=wanted)
    if version is None or version.lineage.settings is None:
        wanted = (
            "--data.paths FILE or --data.demo shakespeare: "
            f"{arguments.model} was not trained in this workspace, so it has no held-out text"
        )
        raise SettingsError("data.paths", got=(), wanted=wanted)
