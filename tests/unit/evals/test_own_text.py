"""What a model was taught never counts as held out, whatever happened to its text since."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tuition.core.errors import DataError, SettingsError
from tuition.core.progress import SilentProgress
from tuition.core.settings import table_to_toml, to_table
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.settings import DataSettings
from tuition.evals.own_text import own_corpus
from tuition.registry.lineage import Lineage
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe
from tuition.train.recipes.pretrain_settings import PretrainSettings


class Said(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["line number 0123456789 of a text to be taught\n" * 20], 280)


def taught(data: DataSettings, tokenizer: Tokenizer, folder: Path) -> tuple[Corpus, Lineage]:
    """The corpus of a training, and what the registry keeps of it."""
    corpus = prepare_corpus(data, tokenizer, folder)
    settings = table_to_toml(to_table(PretrainSettings(data=data)))
    return corpus, Lineage(corpus.digest, tokenizer.digest, settings)


def text_of(corpus: Corpus, tokenizer: Tokenizer) -> str:
    part = corpus.heldout
    return "".join(tokenizer.decode(part.document(i).tolist()) for i in range(part.info.num_documents))


def append(folder: Path) -> None:
    with open(folder / "a.txt", "a") as file:
        file.write("".join(f"line number {n} came later\n" for n in range(60)))


def put_before(folder: Path) -> None:
    path = folder / "a.txt"
    path.write_text("a new first line\n" * 30 + path.read_text())


def rename(folder: Path) -> None:
    (folder / "a.txt").rename(folder / "z.txt")


def reorder(folder: Path) -> None:
    path = folder / "a.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def copy(folder: Path) -> None:
    shutil.copy(folder / "a.txt", folder / "b.txt")


def reformat(folder: Path) -> None:
    path = folder / "a.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


CHANGES = [append, put_before, rename, reorder, copy, reformat, remove]


def write(folder: Path, form: str) -> Path:
    folder.mkdir()
    if form == "one text":
        (folder / "a.txt").write_text("".join(f"line number {n} of a text {n * n}\n" for n in range(300)))
    else:
        for n in range(30):
            name = "a.txt" if n == 3 else f"{n}.txt"
            (folder / name).write_text("".join(f"line {k} of text {n}\n" for k in range(9)))
    return folder


@pytest.mark.parametrize("form", ["one text", "documents"])
@pytest.mark.parametrize("change", CHANGES)
def test_text_that_changed_is_scored_by_the_split_of_training_and_that_is_said(
    tmp_path: Path, tokenizer: Tokenizer, change: Callable[[Path], None], form: str
) -> None:
    data = DataSettings(paths=(write(tmp_path / "texts", form),))
    corpus, lineage = taught(data, tokenizer, tmp_path / "data")
    change(tmp_path / "texts")
    said = Said()
    found = own_corpus(lineage, tokenizer, tmp_path / "data", said)
    assert found.digest == corpus.digest
    assert text_of(found, tokenizer) == text_of(corpus, tokenizer)
    assert "scored on what training held out" in said.lines[-1]


@pytest.mark.parametrize("change", CHANGES)
def test_text_that_changed_is_refused_where_its_split_is_no_longer_known(
    tmp_path: Path, tokenizer: Tokenizer, change: Callable[[Path], None]
) -> None:
    data = DataSettings(paths=(write(tmp_path / "texts", "documents"),))
    _, lineage = taught(data, tokenizer, tmp_path / "data")
    change(tmp_path / "texts")
    with pytest.raises(DataError, match=r"what was held out is no longer known.*--data\.paths"):
        own_corpus(lineage, tokenizer, tmp_path / "elsewhere")


def test_the_same_text_is_split_the_same_again_in_any_workspace(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = DataSettings(paths=(write(tmp_path / "texts", "one text"),))
    corpus, lineage = taught(data, tokenizer, tmp_path / "data")
    said = Said()
    again = own_corpus(lineage, tokenizer, tmp_path / "elsewhere", said)
    assert text_of(again, tokenizer) == text_of(corpus, tokenizer)
    assert not any("changed" in line for line in said.lines)


def test_text_that_was_tokenized_by_another_tokenizer_is_refused(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Its ids would mean other text to this model."""
    data = DataSettings(paths=(write(tmp_path / "texts", "one text"),))
    _, lineage = taught(data, tokenizer, tmp_path / "data")
    other = train_bpe(["some other text that was counted\n" * 20], 270)
    with pytest.raises(DataError, match="another tokenizer"):
        own_corpus(lineage, other, tmp_path / "data")


def test_a_model_of_unknown_origin_has_no_text_of_its_own(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(SettingsError, match=r"data\.paths"):
        own_corpus(Lineage(source="somewhere"), tokenizer, tmp_path)
