"""Documents out of files: what is found, what is refused, and how it is named."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tuition.core.errors import DataError, MissingExtraError, SettingsError
from tuition.data import readers, tables
from tuition.data.documents import Counts, iter_documents
from tuition.data.settings import DataSettings
from tuition.data.sources import find_sources

Write = Callable[..., Path]


def texts(settings: DataSettings, counts: Counts | None = None) -> list[str]:
    return [document.text for document in iter_documents(settings, counts)]


def ids(settings: DataSettings) -> list[str]:
    return [document.id for document in iter_documents(settings)]


def tree(root: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_a_folder_gives_its_text_files_in_order(tmp_path: Path) -> None:
    tree(tmp_path, b_DOT_txt="b", a__c_DOT_md="c", picture_DOT_png=b"\0", _DOT_hidden_DOT_txt="no")
    assert ids(DataSettings(paths=(tmp_path,))) == ["a/c.md", "b.txt"]


def test_patterns_choose_files(tmp_path: Path) -> None:
    tree(tmp_path, x_DOT_py="x", a__y_DOT_py="y", a__test_y_DOT_py="t", z_DOT_txt="z")
    assert ids(DataSettings(paths=(tmp_path,), include=("**/*.py",))) == ["a/test_y.py", "a/y.py", "x.py"]
    assert ids(DataSettings(paths=(tmp_path,), include=("*.py",), exclude=("test_*",))) == ["a/y.py", "x.py"]


def test_a_file_named_twice_is_taught_once(tmp_path: Path) -> None:
    tree(tmp_path, a_DOT_txt="a")
    assert len(find_sources(DataSettings(paths=(tmp_path, tmp_path / "a.txt")))) == 1


def test_a_path_that_is_not_there_and_a_folder_without_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*is not there"):
        texts(DataSettings(paths=(tmp_path / "nowhere",)))
    with pytest.raises(DataError, match="holds no text"):
        texts(DataSettings(paths=(tmp_path,)))
    with pytest.raises(SettingsError, match="paths"):
        texts(DataSettings())


def test_what_is_no_file_is_not_called_misspelt(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"pipe.*is neither a file nor a folder"):
        texts(DataSettings(paths=(tmp_path / "pipe.txt",)))
    with pytest.raises(DataError, match="is a link to nowhere, which is not there"):
        texts(DataSettings(paths=(tmp_path / "link.txt",)))


def test_rows_are_documents_named_by_line_or_title(write_jsonl: Write) -> None:
    path = write_jsonl([{"text": "a", "name": "A"}, "", {"text": "b", "name": "B"}])
    found = list(iter_documents(DataSettings(paths=(path,))))
    assert [(d.id, d.text, d.line) for d in found] == [("rows.jsonl:1", "a", 1), ("rows.jsonl:3", "b", 3)]
    assert ids(DataSettings(paths=(path,), title_field="name")) == ["A", "B"]


def test_a_missing_field_is_named_with_its_line(write_jsonl: Write) -> None:
    path = write_jsonl([{"text": "x"}] * 1203 + [{"body": "y"}] + [{"text": "x"}] * 3)
    with pytest.raises(
        DataError, match=r"rows\.jsonl, line 1,204: has no field 'text' \(it has body\)"
    ) as caught:
        texts(DataSettings(paths=(path,)))
    assert caught.value.line == 1204
    counts = Counts()
    assert len(texts(DataSettings(paths=(path,), on_bad="skip"), counts)) == 1206
    assert counts.skipped == {"missing field": 1}
    assert "line 1,204" in counts.examples[0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "bad JSON"),
        ("[1]", "bad JSON"),
        ('{"text": 5}', "not a text"),
        ('{"text": null}', "missing field"),
        ('{"text": "  "}', "empty"),
        ('{"text": "\\ud800"}', "bad UTF-8"),
        ("[" * 100_000, "bad JSON"),
        ('{"text": "\0"}', "binary"),
    ],
)
def test_every_kind_of_bad_row_is_counted_or_named(write_jsonl: Write, row: str, reason: str) -> None:
    path = write_jsonl([{"text": "a"}, row, {"text": "b"}])
    counts = Counts()
    assert texts(DataSettings(paths=(path,), on_bad="skip"), counts) == ["a", "b"]
    assert counts.skipped == {reason: 1}
    with pytest.raises(DataError, match=r"line 2.*--data\.on-bad skip"):
        texts(DataSettings(paths=(path,)))


@pytest.mark.parametrize(
    ("content", "reason", "line"),
    [
        (b"one\ntwo\xff\n", "bad UTF-8", 2),
        (b"one\ntwo\nth\0ree", "binary", 3),
        (b"\x89PNG\r\n\x1a\n\0\0", "bad UTF-8|binary", None),
        (b"", "empty", None),
        (b" \n\n", "empty", None),
        (b"fine so far\n\xe2\x82", "bad UTF-8", 2),
    ],
)
def test_every_kind_of_bad_file_is_counted_or_named(
    tmp_path: Path, content: bytes, reason: str, line
) -> None:
    tree(tmp_path, a_DOT_txt="good", b_DOT_txt=content)
    counts = Counts()
    assert texts(DataSettings(paths=(tmp_path,), on_bad="skip"), counts) == ["good"]
    assert set(counts.skipped) <= set(reason.split("|"))
    assert counts.num_skipped == 1
    with pytest.raises(DataError, match=r"b\.txt") as caught:
        texts(DataSettings(paths=(tmp_path,)))
    assert line is None or caught.value.line == line


def test_a_long_file_comes_in_pieces_that_join_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PIECE_CHARS", 50)
    whole = "\ufeff" + "".join(f"Zeile {n} äöü 👧\n" for n in range(40)) + "x" * 200
    tree(tmp_path, long_DOT_txt=whole)
    pieces = list(iter_documents(DataSettings(paths=(tmp_path,))))
    assert "".join(piece.text for piece in pieces) == whole.removeprefix("\ufeff")
    assert [piece.part for piece in pieces] == list(range(len(pieces)))
    assert max(len(piece.text) for piece in pieces) <= 50
    assert all(piece.text.endswith("\n") for piece in pieces[:10]), "cut at line ends where there are some"


def test_a_long_file_with_a_bad_end_is_left_out_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "PIECE_CHARS", 50)
    tree(tmp_path, a_DOT_txt="good", long_DOT_txt=b"fine line\n" * 100 + b"\xff")
    assert texts(DataSettings(paths=(tmp_path,), on_bad="skip")) == ["good"]


def test_counts_add_up(tmp_path: Path) -> None:
    tree(tmp_path, a_DOT_txt="äö", b_DOT_txt="b" * 10)
    counts = Counts()
    texts(DataSettings(paths=(tmp_path,)), counts)
    assert (counts.num_documents, counts.num_bytes, counts.read_bytes) == (2, 14, 14)


def test_files_that_are_left_out_are_read_once(tmp_path: Path) -> None:
    tree(tmp_path, a_DOT_txt="good", b_DOT_txt=b"bad\xff")
    counts = Counts()
    assert texts(DataSettings(paths=(tmp_path,), on_bad="skip"), counts) == ["good"]
    assert counts.read_bytes == 8


def parquet(path: Path, rows: list[dict]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.Table.from_pylist(rows), path, row_group_size=2
    )


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", [{"text": f"t{n}", "other": n} for n in range(5)])
    counts = Counts()
    assert texts(DataSettings(paths=(tmp_path / "a.parquet",)), counts) == [f"t{n}" for n in range(5)]
    assert counts.read_bytes == (tmp_path / "a.parquet").stat().st_size
    with pytest.raises(DataError, match=r"no column 'body'.*text, other"):
        texts(DataSettings(paths=(tmp_path / "a.parquet",), field="body"))


def test_a_null_in_a_parquet_row_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", [{"text": "t"}, {"text": None}, {"text": "u"}])
    with pytest.raises(DataError, match="line 2"):
        texts(DataSettings(paths=(tmp_path / "a.parquet",)))
    assert texts(DataSettings(paths=(tmp_path / "a.parquet",), on_bad="skip")) == ["t", "u"]


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"a\.parquet.*no readable parquet"):
        texts(DataSettings(paths=(tmp_path,)))


def test_without_pyarrow_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match="parquet"):
        list(tables.table_rows(tmp_path / "a.parquet", "parquet", ["text"]))


def test_a_hub_dataset_gives_the_split_asked_for_and_not_its_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Card")
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [{"text": "one"}])
    parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [{"text": "two"}])
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [{"text": "three"}])
    assert texts(DataSettings(paths=(tmp_path,))) == ["one", "two"]
    assert texts(DataSettings(paths=(tmp_path,), dataset_split="test")) == ["three"]
    with pytest.raises(DataError, match=r"no split 'validation'.*test, train"):
        texts(DataSettings(paths=(tmp_path,), dataset_split="validation"))


def test_a_hub_dataset_of_json_lines(tmp_path: Path, write_jsonl: Write) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Card")
    write_jsonl([{"text": "one"}], "train.jsonl")
    write_jsonl([{"text": "two"}], "valid.jsonl")
    assert texts(DataSettings(paths=(tmp_path,))) == ["one"]
    assert texts(DataSettings(paths=(tmp_path,), dataset_split="validation")) == ["two"]


def test_what_save_to_disk_writes_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    for split in ("train", "test"):
        folder = tmp_path / split
        folder.mkdir()
        table = pyarrow.Table.from_pylist([{"text": f"{split} {n}"} for n in range(3)])
        path = str(folder / "data-00000-of-00001.arrow")
        with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        (folder / "state.json").write_text("{}")
        (folder / "dataset_info.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    counts = Counts()
    assert texts(DataSettings(paths=(tmp_path,)), counts) == ["train 0", "train 1", "train 2"]
    assert counts.read_bytes == (tmp_path / "train" / "data-00000-of-00001.arrow").stat().st_size
    assert texts(DataSettings(paths=(tmp_path / "test",))) == ["test 0", "test 1", "test 2"]


def test_settings_refuse_what_cannot_be_honored(tmp_path: Path) -> None:
    for wrong in ({"heldout_share": 0.0}, {"heldout_share": 0.9}, {"num_workers": -1}, {"field": ""}):
        with pytest.raises(SettingsError):
            DataSettings(**wrong)
    with pytest.raises(SettingsError, match="paths"):
        DataSettings(paths=(tmp_path,), demo="stdlib")
