"""A step of the demo: teach a pretrained model a task of one's own, and see what that has changed.

Mails with orders are taught as JSON; others, with other wordings, names, products and numbers, are asked
before and after. Files, training, evaluation and bill are those of `data make`, `train --from` and `compare`.
"""

from dataclasses import dataclass, replace

from tuition.cli.demo_bill import training_line
from tuition.cli.scribe import Scribe
from tuition.cli.task_runs import TaskRuns, before_and_after
from tuition.core.settings import table_to_toml
from tuition.core.units import format_duration, parse_duration_s
from tuition.data.settings import ExampleSettings
from tuition.engine.settings import EngineSettings
from tuition.evals.task_file import Task, read_task
from tuition.evals.tasks.files import write_family
from tuition.ledger.statements import training_receipt
from tuition.registry.registry import Registry, Version
from tuition.train.header import settings_table
from tuition.train.recipes.finetune import Finetune
from tuition.train.recipes.finetune_settings import FinetuneEvaluation, FinetuneSettings
from tuition.train.run import Host, run_training
from tuition.train.settings import TrainSettings

NAME = "orders"
"""Of the taught model."""


@dataclass(frozen=True)
class OrdersPlan:
    """How much is taught and asked."""

    base: str
    """The model to begin from: a registered name."""
    budget: str = "75s"
    """Wall time of the training loop."""
    family: str = "orders"
    rows: int = 200
    heldout: int = 40
    seed: int = 1


def teach_orders(host: Host, scribe: Scribe, plan: OrdersPlan) -> Version | None:
    """Ask, teach, ask again, and print one table; None when stopped by Ctrl-C.

    A model that an earlier demo taught with the same settings is taken as it is.
    """
    files = write_family(
        host.workspace.data / "demo", plan.family, rows=plan.rows, heldout=plan.heldout, seed=plan.seed
    )
    task = read_task(files.task)
    scribe.say(f"{plan.rows} mails with their orders as JSON are taught. {plan.heldout} others are held out:")
    scribe.say("they have other wordings, names, products and numbers.")
    runs = TaskRuns(host.workspace, host.books, host.machine, EngineSettings(), host.progress)
    scribe.say(f"\nBefore, {plan.base}:")
    show_first(runs, plan.base, task, scribe)
    data = ExampleSettings(paths=(files.teaching.absolute(),))
    recipe = Finetune(
        FinetuneSettings(
            base=plan.base,
            data=data,
            adapter="lora",
            batch_tokens=1_024,
            evaluation=FinetuneEvaluation(times=0),
        )
    )
    settings = TrainSettings(name=NAME, budget=plan.budget)
    version = find_taught(settings, recipe, host)
    if version is None:
        scribe.say(f"\nTeaching for {format_duration(parse_duration_s(plan.budget))}:")
        result = run_training(settings, recipe, replace(host, progress=scribe))
        scribe.say(training_line(training_receipt(host.books, result.run_id)))
        if result.status == "stopped":
            return None
        version = result.version
    else:
        scribe.say(
            f"\n{version.reference} was taught by an earlier demo with the same settings; it is reused."
        )
    scribe.say(f"\nAfter, {version.reference}:")
    show_first(runs, version.reference, task, scribe)
    scribe.say(f"\n{before_and_after(runs, plan.base, version.reference, [task])}")
    return version


def show_first(runs: TaskRuns, reference: str, task: Task, scribe: Scribe) -> None:
    """The first held-out item and what the model says to it."""
    (result,) = runs.results(reference, [task], reuse=True)
    reply = " ".join(result.items[0].reply.split())
    scribe.say(f"> {task.items[0].prompt}")
    scribe.say(f"{'right' if result.items[0].right else 'wrong'}: {reply[:200]}")


def find_taught(settings: TrainSettings, recipe: Finetune, host: Host) -> Version | None:
    """The newest model that these settings have made."""
    wanted = table_to_toml(settings_table(settings, recipe))
    for version in Registry(host.workspace, host.books).list():
        if (version.name, version.lineage.settings) == (settings.name, wanted) and version.path.is_dir():
            return version
    return None
