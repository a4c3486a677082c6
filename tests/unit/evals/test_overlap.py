"""Taught text is found wherever it stands in a text that is to be scored."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.books.books import open_books
from tuition.core.errors import DataError
from tuition.core.progress import SilentProgress
from tuition.core.workspace import Workspace, open_workspace
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.settings import DataSettings
from tuition.evals.overlap import PASSAGE_BYTES, Passages, without_taught
from tuition.evals.own_text import never_taught, taught_parts
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry, Version
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["words w0123456789 of a text\n" * 20], 280)


def sentences(seed: int, count: int = 12) -> str:
    numbers = random.Random(seed)
    return "".join(" ".join(f"w{numbers.randrange(9_999)}" for _ in range(8)) + "\n" for _ in range(count))


def shares(documents: list[str], taught: str) -> list[float]:
    passages = Passages([document.encode() for document in documents])
    passages.look_in(taught.encode())
    return passages.shares()


def test_the_share_of_a_document_that_stands_elsewhere() -> None:
    known, new = sentences(1, count=40), sentences(2, count=40)
    found = shares([known, new, known + new, new + known], new[:99] + known + sentences(3))
    assert found[0] == 1.0
    assert found[1] < 0.1
    assert found[2] == pytest.approx(0.5, abs=0.1)
    assert found[3] == pytest.approx(0.5, abs=0.1)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 999), before=st.integers(0, 300), cut=st.integers(0, 200), width=st.integers(1, 90)
)
def test_a_passage_is_found_behind_anything_and_wrapped_anyhow(
    seed: int, before: int, cut: int, width: int
) -> None:
    text = sentences(seed)
    words = text[cut:].split(" ")
    wrapped = "".join(word + ("\r\n\t" if n % width == 0 else "  ") for n, word in enumerate(words))
    assert shares([wrapped], sentences(1_000 + seed)[:before] + text) == [1.0]


@pytest.mark.parametrize("text", ["short", "x" * (PASSAGE_BYTES - 1), "two words\nmore"])
def test_documents_shorter_than_a_passage_are_compared_whole(text: str) -> None:
    assert shares([text], f"before\0 {text} \0after") == [1.0]
    assert shares([text], f"before\0{text} and more\0after") == [0.0]


def test_many_bytes_are_sampled_and_found_all_the_same() -> None:
    numbers = random.Random(3)
    known, new = (numbers.randbytes(2**21).hex() for _ in range(2))
    found = shares([known, new, known[:5_000] + new[:20_000], new + new], known)
    assert found[0] == 1.0
    assert found[1] == found[3] == 0.0
    assert found[2] == pytest.approx(0.2, abs=0.05)


# Against what a model was taught.


def taught_version(
    registry: Registry, name: str, corpus: Corpus, tokenizer: Tokenizer, parent: str | None = None
) -> Version:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "tuition.json").write_text('{"weights_digest": "ab"}')

    lineage = Lineage(corpus.digest, tokenizer.digest, "", parent=parent)
    return registry.publish(name, write, lineage)


def corpus_of(workspace: Workspace, tokenizer: Tokenizer, text: str, **fields) -> Corpus:
    folder = workspace.root / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{abs(hash(text))}.txt"
    path.write_bytes(text.encode())
    return prepare_corpus(DataSettings(paths=(path,), **fields), tokenizer, workspace.data)


class Said(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


TAUGHT = sentences(7, count=400)
FORMS: dict[str, Callable[[str], str]] = {
    "appended": lambda text: text + sentences(8, count=100),
    "put before": lambda text: sentences(8, count=100) + text,
    "reordered": lambda text: "".join(text[at : at + 3_000] for at in range(18_000, -1, -3_000)),
    "other line ends": lambda text: text.replace("\n", "\r\n"),
    "wrapped": lambda text: text.replace("\n", " "),
    "the same": str,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_what_was_taught_is_not_scored_however_it_is_named(
    tmp_path: Path, tokenizer: Tokenizer, form: str, share: float
) -> None:
    workspace = open_workspace(tmp_path / "home").create()
    corpus = corpus_of(workspace, tokenizer, TAUGHT)
    named = corpus_of(workspace, tokenizer, FORMS[form](TAUGHT), heldout_share=share)
    said = Said()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        version = taught_version(registry, "tiny", corpus, tokenizer)
        left, left_out = without_taught(named.heldout, [corpus.train], tokenizer)
        if not left.info.num_documents:
            with pytest.raises(DataError, match=r"was taught to tiny@1, all of it"):
                never_taught(named.heldout, registry, version, tokenizer, said)
            return
        scored = never_taught(named.heldout, registry, version, tokenizer, said)
    taught = tokenizer.decode(corpus.train.tokens.tolist())
    found = [tokenizer.decode(scored.document(i).tolist()) for i in range(scored.info.num_documents)]
    assert scored.info.num_bytes == sum(len(text.encode()) for text in found)
    assert all(known <= 0.25 for known in shares(found, taught))
    assert left_out == named.heldout_bytes - scored.info.num_bytes
    assert said.lines == ([f"left out: {left_out:,} bytes that tiny@1 was taught"] if left_out else [])


def test_what_a_parent_was_taught_counts_and_what_is_not_known_is_said(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    workspace = open_workspace(tmp_path / "home").create()
    first = corpus_of(workspace, tokenizer, TAUGHT)
    second = corpus_of(workspace, tokenizer, sentences(9, count=300))
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        taught_version(registry, "base", first, tokenizer)
        child = taught_version(registry, "child", second, tokenizer, parent="base@1")
        parts, is_known = taught_parts(registry, child, tokenizer)
        assert ([part.num_bytes for part in parts], is_known) == (
            [second.train.num_bytes, first.train.num_bytes],
            True,
        )
        text, left_out = without_taught(first.train, parts, tokenizer)
        assert (text.info.num_documents, left_out) == (0, first.train.num_bytes)
        orphan = replace(child, lineage=replace(child.lineage, parent="gone@1"))
        assert taught_parts(registry, orphan, tokenizer)[1] is False
        said = Said()
        never_taught(second.heldout, registry, None, tokenizer, said)
    assert said.lines == ["it is not known whether the model was taught some of this text"]
