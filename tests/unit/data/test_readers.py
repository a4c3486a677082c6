"""Files of every kind: whatever is in them, each document is read whole, or is named, or is left out and
counted."""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import DataError, SettingsError
from tuition.core.progress import SilentProgress, Task
from tuition.data.corpus import prepare_corpus
from tuition.data.documents import Counts, iter_documents
from tuition.data.settings import DataSettings
from tuition.data.sources import describe_unexpected, find_sources
from tuition.tokenizer.tokenizer import Tokenizer

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FEW = settings(max_examples=150, deadline=None)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def texts(counts: Counts | None = None, **fields: Any) -> list[str]:
    return [document.text for document in iter_documents(DataSettings(**fields), counts)]


def skipped(path: Path, **fields: Any) -> tuple[list[str], dict[str, int]]:
    counts = Counts()
    return texts(counts, paths=(path,), on_bad="skip", **fields), counts.skipped


def names(folder: Path, **fields: Any) -> list[str]:
    return [source.name for source in find_sources(DataSettings(paths=(folder,), **fields))]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(*values: str) -> str:
    return "".join(json.dumps({"text": value}) + "\n" for value in values)


# Whatever bytes a file holds.

PIECES = st.sampled_from(
    [b'{"text": "a"}\n', b'{"text": ', b"\xef\xbb\xbf", b"\xff", b"\0", b"\n", b"\r\n", b'{"text": 3}\n',
     b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff", "häuser ".encode(), b"[" * 3_000, b'"\\ud800"',
     b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0"]
)  # fmt: skip
ANY_BYTES = st.one_of(st.binary(max_size=300), st.lists(PIECES, max_size=12).map(b"".join))
NO_ZERO = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
NAMES = ["a.txt", "a.txt.gz", "a.txt.xz", "a.md.bz2", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.arrow"]


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(content=ANY_BYTES, pack=st.booleans())
def test_any_bytes_are_read_or_named_or_left_out(
    tmp_path_factory, name: str, content: bytes, pack: bool
) -> None:
    suffix = "." + name.rpartition(".")[2]
    content = PACK[suffix](content) if pack and suffix in PACK else content
    path = write(tmp_path_factory.mktemp("any") / name, content)
    found, reasons = skipped(path)
    assert all(text and text.encode() for text in found)
    if not reasons:
        assert texts(paths=(path,)) == found
        return
    with pytest.raises(DataError, match=r"--data\.on-bad skip") as caught:
        texts(paths=(path,))
    assert caught.value.path == path


@FEW
@given(
    content=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    suffix=st.sampled_from(list(PACK)),
)
def test_a_text_is_read_as_it_is(tmp_path_factory, content: str, suffix: str) -> None:
    path = write(tmp_path_factory.mktemp("text") / f"a.txt{suffix}", PACK[suffix](content.encode()))
    expected = content.removeprefix("\ufeff")
    found, reasons = skipped(path)
    assert "".join(found) == (expected if expected.strip() else "")
    assert reasons == ({} if expected.strip() else {"empty": 1})


@FEW
@given(values=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8),
       form=st.sampled_from(["a.jsonl", "a.jsonl.gz", "a.parquet", "a.arrow"]))  # fmt: skip
def test_rows_are_read_as_they_are(tmp_path_factory, values: list[str], form: str) -> None:
    path = tmp_path_factory.mktemp("rows") / form
    if form.startswith("a.jsonl"):
        write(path, PACK[".gz" if form.endswith("gz") else ""](rows(*values).encode()))
    else:
        write_table(path, pyarrow.table({"text": values}))
    found, reasons = skipped(path)
    assert found == [value for value in values if value.strip()]
    assert sum(reasons.values()) == len(values) - len(found)


def write_table(path: Path, table: Any, rows_at_once: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=rows_at_once)
        return path
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_at_once)
    return path


@pytest.mark.parametrize("form", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_a_row_that_holds_no_utf8_is_named_and_spoils_no_other(tmp_path: Path, form: str, kind: str) -> None:
    raw = pyarrow.array([b"one", b"two\xff", b"three", b"four"])
    column = raw.view(pyarrow.string())
    if kind == "large_string":
        column = column.cast(pyarrow.large_string(), safe=False)
    elif kind == "dictionary":
        column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, 2, 3], pyarrow.int32()), column)
    path = write_table(
        tmp_path / form, pyarrow.table({"text": column, "other": [1, 2, 3, 4]}), rows_at_once=4
    )
    assert skipped(path) == (["one", "three", "four"], {"bad UTF-8": 1})
    with pytest.raises(DataError, match=r"line 2: .*no UTF-8.*--data\.on-bad skip"):
        texts(paths=(path,))


@pytest.mark.parametrize("form", ["a.parquet", "a.arrow"])
def test_a_table_with_two_columns_of_one_name_is_named_or_left_out(tmp_path: Path, form: str) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["x"]), pyarrow.array(["y"])], names=["text", "text"])
    write_table(tmp_path / form, table)
    write(tmp_path / "b.txt", "good")
    assert skipped(tmp_path) == (["good"], {"ambiguous field": 1})
    with pytest.raises(DataError, match="2 columns named 'text'"):
        texts(paths=(tmp_path,))


@pytest.mark.parametrize("form", ["a.parquet", "a.arrow", "a.jsonl.gz", "a.txt.xz", "a.txt.bz2"])
def test_a_file_that_is_cut_off_among_good_ones_is_named_or_left_out(tmp_path: Path, form: str) -> None:
    values = [os.urandom(40).hex() for _ in range(300)]
    path = tmp_path / form
    if "jsonl" in form or "txt" in form:
        write(path, PACK[path.suffix](rows(*values).encode()))
    else:
        write_table(path, pyarrow.table({"text": values}), rows_at_once=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write(tmp_path / "b.txt", "good")
    found, reasons = skipped(tmp_path)
    assert found[-1] == "good"
    assert set(found[:-1]) <= set(values)
    assert reasons in ({"damaged": 1}, {"damaged": 1, "bad JSON": 1})
    with pytest.raises(DataError, match=form.replace(".", r"\.")):
        texts(paths=(tmp_path,))


# Which files are read.


def test_no_file_is_dropped_because_of_its_name_or_that_of_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "n")
    for name in ("latest-news", "train-stations", "contest", "validation of tickets"):
        write(tmp_path / "data" / f"{name}.jsonl", rows(name))
    write(tmp_path / "data" / "x.jsonl.gz", gzip.compress(rows("packed").encode()))
    assert len(names(tmp_path)) == 6
    assert describe_unexpected(DataSettings(paths=(tmp_path,))) == []
    assert "packed" in texts(paths=(tmp_path,))


def test_linked_folders_and_files_are_read_once_and_circles_end(tmp_path: Path) -> None:
    write(tmp_path / "far" / "deep" / "a.txt", "a")
    write(tmp_path / "far" / "b.txt", "b")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "linked").symlink_to(tmp_path / "far")
    (corpus / "again").symlink_to(tmp_path / "far" / "deep")
    (corpus / "c.txt").symlink_to(tmp_path / "far" / "b.txt")
    (tmp_path / "far" / "up").symlink_to(corpus)
    assert sorted(texts(paths=(corpus,))) == ["a", "b"]


def test_what_is_not_read_is_said(tmp_path: Path, tokenizer: Tokenizer) -> None:
    lines: list[str] = []

    class Heard(SilentProgress):
        def say(self, text: str) -> None:
            lines.append(text)

    write(tmp_path / "texts" / "a.txt", "".join(f"line {n}\n" for n in range(200)))
    write(tmp_path / "texts" / "b.pdf", "%PDF")
    write(tmp_path / "texts" / "c.parquet.gz", "x")
    prepare_corpus(DataSettings(paths=(tmp_path / "texts",)), tokenizer, tmp_path / "data", Heard())
    assert any("2 files of no known extension (b.pdf, c.parquet.gz)" in line for line in lines)


def test_of_a_dataset_the_split_is_read_and_the_rest_is_said(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", rows("a"))
    write(tmp_path / "test.jsonl", rows("b"))
    write(tmp_path / "README.txt", "about it")
    assert names(tmp_path) == ["train.jsonl"]
    assert names(tmp_path, dataset_split="test") == ["test.jsonl"]
    said = "\n".join(describe_unexpected(DataSettings(paths=(tmp_path,))))
    assert "1 file beside a dataset (README.txt)" in said
    assert "1 file not of the split train (--data.dataset-split) (test.jsonl)" in said


def test_a_file_whose_name_is_no_utf8_is_taught_from_its_folder(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "texts"
    for n in range(30):
        write(folder / f"{n}.txt", f"text number {n} of thirty\n" * 3)
    raw = os.fsencode(folder) + b"/caf\xe9.txt"
    with open(raw, "wb") as file:
        file.write(b"au lait\n" * 9)
    with open(os.fsencode(folder) + b"/bad\xe9.txt", "wb") as file:
        file.write(b"\xff")
    data = DataSettings(paths=(folder,), heldout=("caf\\xe9.txt",), on_bad="skip")
    corpus = prepare_corpus(data, tokenizer, tmp_path / "data")
    assert corpus.heldout_titles == ("caf\\xe9.txt",)
    assert corpus.counts.skipped == {"bad UTF-8": 1}
    assert prepare_corpus(data, tokenizer, tmp_path / "data").reused
    with pytest.raises(DataError, match=r"bad\\xe9\.txt"):
        texts(paths=(folder,))
    with pytest.raises(SettingsError, match=r"data\.paths: got '.*caf\\\\xe9\.txt', wanted a path in UTF-8"):
        DataSettings(paths=(Path(os.fsdecode(raw)),))


@pytest.mark.parametrize("stage", ["look at files", "tokenize"])
def test_a_file_that_grows_while_it_is_read_is_noticed(
    tmp_path: Path, tokenizer: Tokenizer, stage: str
) -> None:
    path = write(tmp_path / "a.txt", "".join(f"line {n}\n" for n in range(500)))

    class Growing(SilentProgress):
        @contextmanager
        def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
            yield self
            if label == stage:
                with open(path, "a") as file:
                    file.write("one more line\n")

    with pytest.raises(DataError, match=r"a\.txt: changed while it was read; run again"):
        prepare_corpus(DataSettings(paths=(path,)), tokenizer, tmp_path / "data", Growing())
    assert not list((tmp_path / "data").glob("*/corpus.json"))
    corpus = prepare_corpus(DataSettings(paths=(path,)), tokenizer, tmp_path / "data")
    assert corpus.train.num_bytes + corpus.heldout_bytes == path.stat().st_size


def test_a_file_in_the_place_of_another_with_its_size_and_time_is_read(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = write(tmp_path / "a.txt", "".join(f"line {n:04}\n" for n in range(500)))
    os.utime(path, ns=(10**18, 10**18))
    first = prepare_corpus(DataSettings(paths=(path,)), tokenizer, tmp_path / "data")
    write(tmp_path / "b", path.read_text().replace("line", "LINE"))
    os.replace(tmp_path / "b", path)
    os.utime(path, ns=(10**18, 10**18))
    assert prepare_corpus(DataSettings(paths=(path,)), tokenizer, tmp_path / "data").digest != first.digest


# Messages name the option to type.


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"story": "once", "n": 3}, "has no field 'text' (it has n, story); "
                                    "name a field that holds text, like --data.field story"),
        ({"text": 3, "body": "b"}, "the field 'text' is a number, not a text; "
                                   "name a field that holds text, like --data.field body"),
        ({"n": 3}, "has no field 'text' (it has n); mend it; --data.on-bad skip leaves such out"),
        ({"text": None}, "the field 'text' is null; mend it; --data.on-bad skip leaves such out"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_there_is_answered_with_the_option_to_type(
    tmp_path: Path, row: dict, message: str
) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        texts(paths=(path,))
    assert message in str(caught.value)
    assert "--data.on-bad skip" in str(caught.value)


def test_a_column_that_is_not_there_is_answered_with_the_option_to_type(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", pyarrow.table({"n": [1], "story": ["once"]}))
    with pytest.raises(DataError, match=r"no column 'text' \(it has n, story\).*--data\.field story"):
        texts(paths=(path,))


def test_no_text_at_all_is_answered_with_the_option_to_type() -> None:
    with pytest.raises(SettingsError, match=r"nothing given, wanted text, as --data\.paths FILE"):
        texts()


@pytest.mark.parametrize("form", ["a.parquet", "stream.arrow", "file.arrow"])
def test_no_changed_byte_of_a_table_ends_the_process(tmp_path: Path, form: str) -> None:
    """In a process of its own: an offset that points outside of the file would be a bus error."""
    table = pyarrow.table({"text": [f"text number {n} äöü" for n in range(50)], "n": list(range(50))})
    path = tmp_path / form
    if form == "file.arrow":
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
    else:
        write_table(path, table, rows_at_once=20)
    program = tmp_path / "program.py"
    program.write_text(CHANGE_BYTES)
    done = subprocess.run([sys.executable, str(program), str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "400\n", "")


CHANGE_BYTES = """
import random, sys
from pathlib import Path
from tuition.core.errors import DataError
from tuition.data.documents import iter_documents
from tuition.data.settings import DataSettings

path, chance = Path(sys.argv[1]), random.Random(1)
whole = path.read_bytes()
for count in range(400):
    content = bytearray(whole)
    for _ in range(chance.choice([1, 2, 5, 20])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content)
    found = list(iter_documents(DataSettings(paths=(path,), on_bad="skip")))
    try:
        list(iter_documents(DataSettings(paths=(path,))))
    except DataError:
        pass
print(count + 1)
"""


def test_a_file_of_no_known_extension_is_read_as_text_and_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "letters.doc1", "a letter")
    assert texts(paths=(path,)) == ["a letter"]
    assert describe_unexpected(DataSettings(paths=(path,))) == [
        f"{path}: of no known extension, read as plain text"
    ]
