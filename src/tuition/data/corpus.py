"""Prepare a corpus: read, split, tokenize, and keep the result for the next run.

In: `DataSettings`, a tokenizer, the workspace's data folder.  Out: `Corpus`. A corpus is stored under a
digest of every file's content, the settings that matter and the tokenizer, so it is prepared again exactly
when one of them has changed.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from tuition.core.durable import publish_folder, write_json
from tuition.core.errors import DataError
from tuition.core.lock import FileLock
from tuition.core.progress import Progress, SilentProgress, Task
from tuition.data.corpora import with_demo_titles
from tuition.data.csv_rows import unusual_separator
from tuition.data.documents import Counts, sources_of
from tuition.data.fingerprints import file_state, fingerprint_sources, require_unchanged
from tuition.data.settings import DataSettings
from tuition.data.shards import (
    Markers,
    PartInfo,
    PartWriter,
    TokenSet,
    info_from_json,
    info_to_json,
    open_part,
)
from tuition.data.sources import Source, describe_unexpected
from tuition.data.split import PARTS
from tuition.data.tokenize import EncodedUnit, choose_workers, encode_units
from tuition.data.units import SplitBy, plan_split, split_units
from tuition.tokenizer.tokenizer import Tokenizer

_FORMAT = 3
_MATTERS = (
    "field",
    "title_field",
    "on_bad",
    "heldout",
    "heldout_share",
    "heldout_max_bytes",
    "validation",
    "validation_share",
)
_LONGEST_WAIT_S = 3_600.0


@dataclass(frozen=True)
class Corpus:
    """Tokenized text in parts that share no document."""

    folder: Path
    digest: str
    """Of every file's content, the settings and the tokenizer; 64 hex digits."""
    tokenizer_digest: str
    split_by: SplitBy
    """What was held out: documents by title, documents by hash, or blocks of text."""
    counts: Counts
    """What was read and what was left out."""
    train: TokenSet
    heldout: TokenSet
    validation: TokenSet | None
    reused: bool
    """It was prepared earlier, and nothing has changed since."""

    @property
    def num_tokens(self) -> int:
        """Of the part that is taught."""
        return self.train.num_tokens

    @property
    def heldout_bytes(self) -> int:
        """UTF-8 bytes of the held-out text."""
        return self.heldout.num_bytes

    @property
    def heldout_titles(self) -> tuple[str, ...]:
        """Documents that were held out whole (the first hundred); none where blocks were."""
        return () if self.split_by == "blocks" else self.heldout.info.titles

    def describe_split(self) -> str:
        """One line for the reader: what was held out, and how it was chosen."""
        info = self.heldout.info
        size = f"{info.num_bytes:,} bytes of text held out"
        if self.split_by == "blocks":
            return f"{size} in {info.num_documents:,} blocks: too few documents to hold out whole ones"
        if self.split_by == "titles":
            return f"{size}: {', '.join(self.heldout_titles)}"
        documents = "1 document" if info.num_documents == 1 else f"{info.num_documents:,} documents"
        return f"{size} in {documents}, chosen by a hash of their text"


def prepare_corpus(
    settings: DataSettings, tokenizer: Tokenizer, folder: Path, progress: Progress | None = None
) -> Corpus:
    """Read, split and tokenize what `settings` name, or open what an earlier run made of the same.

    `folder` is the workspace's data folder. Raises: DataError, NotFoundError, SettingsError, BusyError.
    """
    reporter: Progress = progress or SilentProgress()
    settings = with_demo_titles(settings)
    sources = sources_of(settings)
    states = [file_state(source) for source in sources]
    digest = _digest_of(settings, sources, tokenizer, folder, reporter)

    def write(staging: Path) -> None:
        _write(staging, settings, sources, tokenizer, digest, reporter)
        require_unchanged(sources, states)

    target = folder / digest[:24]
    with FileLock(folder / f"{digest[:24]}.lock", timeout_s=_LONGEST_WAIT_S):
        reused = (target / "corpus.json").is_file()
        if not reused:
            for stray in folder.glob(f".{target.name}.*.tmp"):  # of a run that was killed
                shutil.rmtree(stray, ignore_errors=True)
            publish_folder(target, write)
    corpus = _open(target, digest, reused)
    for line in describe_unexpected(settings):
        reporter.say(line)
    for source in sources:
        if (sign := unusual_separator(source)) is not None:
            reporter.say(f"{source.name}: cells separated by {sign}")
    _say(corpus, reporter)
    return corpus


def corpus_digest(
    settings: DataSettings, tokenizer: Tokenizer, folder: Path, progress: Progress | None = None
) -> str:
    """The digest that `prepare_corpus` would give the corpus now. Raises: as `prepare_corpus`."""
    settings = with_demo_titles(settings)
    return _digest_of(settings, sources_of(settings), tokenizer, folder, progress or SilentProgress())


def open_corpus(folder: Path, digest: str) -> Corpus | None:
    """The corpus of that digest, if it was prepared in `folder` and is still there. Raises: DataError if
    it is damaged."""
    target = folder / digest[:24]
    return _open(target, digest, reused=True) if (target / "corpus.json").is_file() else None


def _digest_of(
    settings: DataSettings, sources: list[Source], tokenizer: Tokenizer, folder: Path, progress: Progress
) -> str:
    fingerprints = fingerprint_sources(sources, folder / "fingerprints.json", progress)
    chosen = {name: getattr(settings, name) for name in _MATTERS}
    made_of = {
        "format": _FORMAT,
        "settings": chosen,
        "tokenizer": tokenizer.digest,
        "markers": asdict(Markers.of(tokenizer)),
        "files": fingerprints,
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _write(
    folder: Path,
    settings: DataSettings,
    sources: list[Source],
    tokenizer: Tokenizer,
    digest: str,
    progress: Progress,
) -> None:
    total_bytes = sum(source.num_bytes for source in sources)
    plan = plan_split(settings, sources)
    counts = Counts()
    units = split_units(settings, sources, plan, counts)
    encoded = encode_units(units, tokenizer, choose_workers(settings.num_workers, total_bytes), progress)
    with progress.task("tokenize", total_bytes, "B") as task:
        parts = _write_parts(folder, encoded, tokenizer, counts, task)
    _check_parts(parts, sources, counts)
    record = {
        "format": _FORMAT,
        "digest": digest,
        "split_by": plan.by,
        "block_bytes": plan.block_bytes,
        "tokenizer": tokenizer.digest,
        "files": len(sources),
        "counts": asdict(counts),
        "parts": {part: info_to_json(info) for part, info in parts.items()},
    }
    write_json(folder / "corpus.json", record)


def _write_parts(
    folder: Path, encoded: Iterable[EncodedUnit], tokenizer: Tokenizer, counts: Counts, task: Task
) -> dict[str, PartInfo]:
    markers = Markers.of(tokenizer)
    with ExitStack() as stack:
        writers = {
            part: stack.enter_context(PartWriter(folder, part, markers, tokenizer.vocab_size))
            for part in PARTS
        }
        told = 0
        for item in encoded:
            unit = item.unit
            writers[unit.part].add(item.ids, item.num_bytes, unit.title, unit.begins)
            if counts.read_bytes > told:
                task.advance(counts.read_bytes - told)
                told = counts.read_bytes
        return {part: writer.finish() for part, writer in writers.items()}


def _check_parts(parts: dict[str, PartInfo], sources: list[Source], counts: Counts) -> None:
    """Raises: DataError if there is nothing to teach or nothing to measure with."""
    for part in ("train", "heldout"):
        if not parts[part].num_bytes:
            left_out = f" ({counts.num_skipped:,} documents were left out)" if counts.num_skipped else ""
            word = "teach" if part == "train" else "hold out"
            way_out = "add text, or name fewer documents to hold out" if part == "train" else "add text"
            raise DataError(sources[0].path, f"leaves nothing to {word}{left_out}", way_out=way_out)


def _open(folder: Path, digest: str, reused: bool) -> Corpus:
    try:
        record = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        parts = {part: open_part(folder, part, info_from_json(record["parts"][part])) for part in PARTS}
        counts = Counts(**record["counts"])
        by, made_by = record["split_by"], record["tokenizer"]
        if record["digest"] != digest:
            raise ValueError(f"holds the corpus {record['digest']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        way_out = "remove this folder and prepare the data again"
        raise DataError(folder, f"is damaged ({error})", way_out=way_out) from error
    validation = parts["validation"] if parts["validation"].num_tokens else None
    return Corpus(folder, digest, made_by, by, counts, parts["train"], parts["heldout"], validation, reused)


def _say(corpus: Corpus, progress: Progress) -> None:
    what = "data unchanged, reused" if corpus.reused else "data prepared"
    progress.say(f"{what}: {corpus.num_tokens:,} tokens to teach; {corpus.describe_split()}")
    for reason, number in sorted(corpus.counts.skipped.items()):
        progress.say(
            f"left out: {number:,} ({reason}); the first ones are listed in {corpus.folder / 'corpus.json'}"
        )
