"""What a registered model was taught, and what it was not.

In: the model's lineage and its tokenizer.  Out: the `Corpus` of its training, split as it was there; or of
other text the part that it was not taught. Text that changed since training is never split again: a new split
would count taught bytes as held out.
"""

import tomllib
from pathlib import Path

from tuition.core.errors import DataError, NotFoundError, SettingsError, TuitionError
from tuition.core.progress import Progress, SilentProgress
from tuition.core.settings import from_table
from tuition.data.corpus import Corpus, corpus_digest, open_corpus, prepare_corpus
from tuition.data.settings import DataSettings
from tuition.data.shards import TokenSet
from tuition.evals.overlap import without_taught
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry, Version
from tuition.tokenizer.tokenizer import Tokenizer

_CHANGED = "the text has changed since training, or this version splits it in another way"
_WAY_OUT = "restore that text, or name text that was never taught with --data.paths"


def data_settings(lineage: Lineage) -> DataSettings | None:
    """The data settings of the model's own training; None for a model of unknown origin."""
    if lineage.settings is None or lineage.corpus_digest is None:
        return None
    return from_table(DataSettings, tomllib.loads(lineage.settings).get("data", {}))


def own_corpus(
    lineage: Lineage, tokenizer: Tokenizer, folder: Path, progress: Progress | None = None
) -> Corpus:
    """The corpus of the model's training, split as it was there.

    It is the prepared one in `folder` (the workspace's data folder), or is prepared again where the text is
    still the same. When the text has changed and the prepared corpus is there, that is used, and it is said.
    Raises: SettingsError for a model of unknown origin; DataError when the split is no longer known.
    """
    reporter = progress or SilentProgress()
    settings, digest = data_settings(lineage), lineage.corpus_digest
    if settings is None or digest is None:
        raise SettingsError("data.paths", got=(), wanted="the text to score, as --data.paths FILE")
    changed = _why_changed(settings, digest, tokenizer, folder, reporter)
    if changed is None:
        corpus = prepare_corpus(settings, tokenizer, folder, reporter)
        if corpus.digest == digest:  # it can have changed between the two
            return corpus
        changed = _CHANGED
    where = ", ".join(map(str, settings.paths)) or f"demo corpus {settings.demo}"
    corpus = open_corpus(folder, digest)
    if corpus is None:
        problem = f"{changed}, and the corpus that was prepared then is not in this workspace"
        raise DataError(where, f"{problem}: what was held out is no longer known", way_out=_WAY_OUT)
    if corpus.tokenizer_digest != tokenizer.digest:
        raise DataError(where, "was tokenized for training by another tokenizer", way_out=_WAY_OUT)
    reporter.say(f"{where}: {changed}; scored on what training held out: {corpus.describe_split()}")
    return corpus


def _why_changed(
    settings: DataSettings, digest: str, tokenizer: Tokenizer, folder: Path, progress: Progress
) -> str | None:
    """Why the text now would give another corpus than that of training; None: it gives the same."""
    try:
        now = corpus_digest(settings, tokenizer, folder, progress)
    except TuitionError as error:
        return f"the text of training cannot be read now ({error})"
    return None if now == digest else _CHANGED


def never_taught(
    text: TokenSet, registry: Registry, version: Version | None, tokenizer: Tokenizer, progress: Progress
) -> TokenSet:
    """The documents of `text` that the model was not taught, as far as that is known; what is left out, and
    what is not known, is said.

    Raises: DataError when it was taught all of them.
    """
    taught, is_known = taught_parts(registry, version, tokenizer)
    name = "the model" if version is None else version.reference
    left_out = 0
    if taught:
        text, left_out = without_taught(text, taught, tokenizer)
    if not text.info.num_documents:
        way_out = "name text that was never taught with --data.paths"
        raise DataError("the held-out text", f"was taught to {name}, all of it", way_out=way_out)
    if left_out:
        progress.say(f"left out: {left_out:,} bytes that {name} was taught")
    if not is_known:
        progress.say(f"it is not known whether {name} was taught some of this text")
    return text


def taught_parts(
    registry: Registry, version: Version | None, tokenizer: Tokenizer
) -> tuple[list[TokenSet], bool]:
    """What the version and those that it began from were taught, and whether that is all."""
    parts: list[TokenSet] = []
    while version is not None:
        lineage = version.lineage
        found = lineage.corpus_digest and open_corpus(registry.workspace.data, lineage.corpus_digest)
        if not found or found.tokenizer_digest != tokenizer.digest:
            return parts, False
        parts.append(found.train)
        if lineage.parent is None:
            return parts, True
        try:
            version = registry.get(lineage.parent)
        except NotFoundError:
            return parts, False
    return parts, False
