"""Rows of JSON, CSV and TSV files: what is read, and how a fault is named."""

import bz2
import gzip
import json
from pathlib import Path

import pytest

from tuition.core.errors import DataError
from tuition.data.documents import iter_documents
from tuition.data.readers import BadInput
from tuition.data.row_files import source_rows
from tuition.data.settings import DataSettings
from tuition.data.sources import Source, kind_of


def rows(path: Path) -> list[tuple[int, object]]:
    """Line and row; of a row that cannot be used, its problem."""
    kind = kind_of(path)
    assert kind is not None
    found = source_rows(Source(path, path.name, kind))
    return [(line, row.problem if isinstance(row, BadInput) else row) for line, row, _ in found]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "text",
    [
        '[\n{"a": 1},\n{"a": 2}\n]',
        '[{"a": 1}\n, {"a":\n 2}]',
        '\ufeff{"version": "1.0",\n"data": [{"a": 1},\n{"a": 2}], "count": 2}',
    ],
)
def test_a_json_list_gives_its_items_with_their_lines(tmp_path: Path, text: str) -> None:
    assert [row for _, row in rows(written(tmp_path, "a.json", text))] == [{"a": 1}, {"a": 2}]


def test_the_line_of_an_item_is_that_where_it_begins(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", '[\n  {\n "a": 1\n },\n\n  {"a": 2}, 3, {"a":\n4}\n]')
    problem = "an item of the list is a number, wanted an object"
    assert rows(path) == [(2, {"a": 1}), (6, {"a": 2}), (6, problem), (6, {"a": 4})]


def test_a_json_file_that_holds_json_lines_is_read_line_by_line(tmp_path: Path) -> None:
    """Many public data sets are named .json and hold JSON lines."""
    path = written(tmp_path, "a.json", '{"a": 1}\n{"a": \n{"a": 3}\n')
    (first, second, third) = rows(path)
    assert (first, third) == ((1, {"a": 1}), (3, {"a": 3}))
    assert (second[0], "is no JSON" in str(second[1])) == (2, True)


def test_one_conversation_is_a_row_and_not_a_list_of_rows(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    assert rows(written(tmp_path, "a.json", json.dumps(row, indent=2))) == [(1, row)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("[]", "holds no rows"),
        ("3", "holds a number, wanted a list of objects"),
        ('"x"', "holds a text, wanted a list of objects"),
        ('{"train": [{"a": 1}], "test": [{"a": 2}]}', r"holds several lists of rows \(train, test\)"),
        ('{"a": 1} x', "holds something behind its first object"),
        ('[{"a": 1}', "is no JSON"),
        ("[" * 100_000, "nested too deeply|is no JSON"),
        (b'[{"a": "\xff"}]', "is no UTF-8"),
        (b'[{"a": "\0"}]', "is binary"),
        ('[{"a": 1}]'.encode("utf-16"), "is UTF-16 text, wanted UTF-8"),
        ('[{"a": 1}]'.encode("utf-16-be"), "is UTF-16 text, wanted UTF-8"),
    ],
)
def test_a_json_file_that_holds_no_rows_is_named(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        rows(written(tmp_path, "a.json", text))


def test_a_key_that_comes_twice_is_a_fault_of_its_row(tmp_path: Path) -> None:
    """The rows behind it are read."""
    problem = "has the key 'a' twice, and it is not clear which one counts"
    found = rows(written(tmp_path, "a.json", '[{"b": 1},\n{"a": 1, "a": 2},\n{"b": 3}]'))
    assert found == [(1, {"b": 1}), (2, problem), (3, {"b": 3})]
    assert rows(written(tmp_path, "b.json", '{"b": {"a": 1, "a": 2}}')) == [(1, problem)]
    assert rows(written(tmp_path, "c.jsonl", '{"a": 1, "a": 2}\n{"b": 3}\n')) == [(1, problem), (2, {"b": 3})]


def test_faults_in_a_json_list_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="wanted ',' or ']'") as raised:
        rows(written(tmp_path, "a.json", '[{"a": 1},\n{"a": 2}\n{"a": 3}]'))
    assert raised.value.line == 3


def test_csv_cells_may_hold_commas_quotes_and_lines(tmp_path: Path) -> None:
    text = '\ufeffprompt,completion\r\n"a, b","he said ""no"""\r\n\r\n"two\nlines",x\r\n'
    assert rows(written(tmp_path, "a.csv", text)) == [
        (2, {"prompt": "a, b", "completion": 'he said "no"'}),
        (4, {"prompt": "two\nlines", "completion": "x"}),
    ]


def test_tsv_is_separated_by_tabs(tmp_path: Path) -> None:
    assert rows(written(tmp_path, "a.tsv", "a\tb\n1, 2\t3\n")) == [(2, {"a": "1, 2", "b": "3"})]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "a;b\n1,5;2\n"),
        ("a.csv", '\ufeff"a";"b"\r\n"1,5";2\r\n'),
        ("a.tsv", "a;b\n1,5;2\n"),
        ("a.csv", "a\tb\n1,5\t2\n"),
        ("a.csv", "a|b\n1,5|2\n"),
        ("a.csv", "\ufeffa,b\n" + '"1,5",2\n'),
    ],
)
def test_the_separator_of_cells_is_found(tmp_path: Path, name: str, text: str) -> None:
    """Spreadsheets write ';' where ',' is the decimal sign."""
    assert rows(written(tmp_path, name, text)) == [(2, {"a": "1,5", "b": "2"})]


def test_a_first_line_that_leaves_two_separators_is_settled_by_the_rows(tmp_path: Path) -> None:
    text = "price, net;name\n1,5;x\n2;y\n3;z\n"
    assert rows(written(tmp_path, "a.csv", text))[0] == (2, {"price, net": "1,5", "name": "x"})
    with_a_bad_row = "price, net;name\n1;x\n2;y;z\n"
    found = rows(written(tmp_path, "b.csv", with_a_bad_row))
    assert found == [(2, {"price, net": "1", "name": "x"}), (3, "has 3 cells, the first line names 2")]


def test_a_line_before_the_names_may_say_the_separator(tmp_path: Path) -> None:
    """As Excel has it; lines are counted with it."""
    for said in ("sep=;", '"sep=;"', "SEP=;\r"):
        path = written(tmp_path, "a.csv", f"\ufeff{said}\na,b;c\n1,2;3\n")
        assert rows(path) == [(3, {"a,b": "1,2", "c": "3"})]


def test_a_huge_cell_is_read_whole(tmp_path: Path) -> None:
    """The csv library's own limit is 131,072 characters."""
    ((_, row),) = rows(written(tmp_path, "a.csv", "a,b\n" + "x" * 300_000 + ",y\n"))
    assert row == {"a": "x" * 300_000, "b": "y"}


def test_bad_rows_of_csv_are_named_and_reading_goes_on(tmp_path: Path) -> None:
    text = b'a,b\n1\n1,2,3\n"x"y,2\n\xff,2\n"z\n\0",2\n5,6\n"open,7\n8,9\n'
    found = rows(written(tmp_path, "a.csv", text))
    assert [line for line, _ in found] == [2, 3, 4, 5, 6, 8, 9]
    problems = [str(row) for _, row in found]
    for wanted, problem in zip(
        ("has 1 cells, the first line names 2", "has 3 cells", "is no CSV", "'a' is no UTF-8 (byte 0xff)",
         "'a' is binary", "'a': '5'", "is no CSV (unexpected end of data)"),
        problems, strict=True,
    ):  # fmt: skip
        assert wanted in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("a,b\n", "holds no rows"),
        ("a,a\n1,2\n", "has 2 columns named 'a'"),
        ("a,,b\n1,2,3\n", "a column without a name"),
        ("a,b;c\n1,2;3\n", "its first line holds ',' and ';': each could separate columns"),
        ("a,b;c\n", "its first line holds ',' and ';': each could separate columns"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16 text"),
        ("a,b\n1,2\n".encode("utf-16-le"), "is UTF-16 text"),
    ],
)
def test_a_csv_file_without_a_usable_first_line_is_named(
    tmp_path: Path, text: str | bytes, problem: str
) -> None:
    with pytest.raises(BadInput, match=problem):
        rows(written(tmp_path, "a.csv", text))


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_files_are_unpacked(tmp_path: Path, ending: str, pack: object) -> None:
    assert callable(pack)
    assert rows(written(tmp_path, "a.csv" + ending, pack(b"a\n1\n"))) == [(2, {"a": "1"})]
    assert rows(written(tmp_path, "a.json" + ending, pack(b'[{"a": 1}]'))) == [(1, {"a": 1})]
    json_lines = pack(b'{"a": 1}\n{"a": 2}')
    assert rows(written(tmp_path, "b.json" + ending, json_lines)) == [(1, {"a": 1}), (2, {"a": 2})]


def test_text_of_two_bytes_a_character_is_called_so(tmp_path: Path) -> None:
    """It holds zero bytes, which does not make it binary."""
    for encoding, name in (("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-32", "UTF-32")):
        for file in ("a.txt", "a.jsonl"):
            path = written(tmp_path, file, '{"text": "Hello"}\n'.encode(encoding))
            with pytest.raises(DataError, match=f"is {name} text, wanted UTF-8; save it as UTF-8"):
                list(iter_documents(DataSettings(paths=(path,))))
    with pytest.raises(DataError, match="is UTF-16 text"):
        list(iter_documents(DataSettings(paths=(written(tmp_path, "b.txt", "漢字".encode("utf-16")),))))
    with pytest.raises(DataError, match="is binary"):
        list(iter_documents(DataSettings(paths=(written(tmp_path, "c.txt", b"\x7fELF\x02\x01\0\0\0"),))))


def test_a_corpus_may_be_csv_or_json_where_it_is_named(tmp_path: Path) -> None:
    """In a folder of text such files are as likely a part of a program: there they are not read."""
    csv = written(tmp_path, "a.csv", "text,n\nhello,1\n")
    named = written(tmp_path, "a.json", '[{"text": "there"}]')
    written(tmp_path, "a.txt", "plain")
    assert [d.text for d in iter_documents(DataSettings(paths=(csv, named)))] == ["hello", "there"]
    assert [d.text for d in iter_documents(DataSettings(paths=(tmp_path,)))] == ["plain"]
    with pytest.raises(DataError, match=r"a\.csv, line 2: has no field 'body' \(it has n, text\)"):
        list(iter_documents(DataSettings(paths=(csv,), field="body")))
