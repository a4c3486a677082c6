"""`tuition bill check` in books without anything, and in books of a process that was killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tuition.books.books import open_books
from tuition.cli.main import USAGE, main
from tuition.core.workspace import open_workspace
from tuition.ledger.periods import empty_columns, write_period
from tuition.ledger.process import process_identity
from tuition.ledger.receipts import record_rate
from tuition.spec.machine import detect_machine


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A workspace with one period, whose process has ended without closing it."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    child.communicate(b"\n")
    with open_books(open_workspace(tmp_path)) as books:
        rate_id = record_rate(books, detect_machine())
        row = {
            "kind": "serving", "model": "tiny", "account": "a" * 16, "number": 0, "status": "open",
            "process": identity, "rate_id": rate_id,
        }  # fmt: skip
        books.write_now(lambda connection: write_period(connection, row | empty_columns()))
    return tmp_path


def check(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["bill", "check", "--workspace", str(folder), *words])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_books_in_which_nothing_was_billed_are_one_line(tmp_path: Path, capsys) -> None:
    status, out, _ = check(tmp_path, capsys)
    assert status == 0
    assert len(out.splitlines()) == 1
    assert out.startswith("Nothing was billed yet")


@pytest.mark.parametrize("chosen", ["1", "all"])
def test_a_known_loss_is_accepted_with_a_reason(killed: Path, capsys, chosen: str) -> None:
    status, out, _ = check(killed, capsys)
    assert status == 1
    assert "period 1 (tiny): its process ended without closing it: up to 1.0 s of its meter" in out
    assert 'tuition bill check --accept <period> --why "power cut"' in out
    for _ in range(2):
        status, out, _ = check(
            killed, capsys, *(("--accept", chosen, "--why", "power cut") if _ == 0 else ())
        )
        assert status == 0
        assert "1 known loss, accepted:\n  period 1 (tiny): power cut (20" in out
        assert "every identity holds to the last unit" in out
    found = json.loads(check(killed, capsys, "--format", "json")[1])
    assert (found["holds"], found["findings"]) == (True, [])
    assert (found["accepted"][0]["why"], found["accepted"][0]["finding"]["loss"]["period_id"]) == (
        "power cut",
        1,
    )
    assert "Accepted,period 1 (tiny)" in check(killed, capsys, "--format", "csv")[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--accept", "1"), "--why: nothing given, wanted the reason"),
        (("--why", "power cut"), "--why: got 'power cut', wanted nothing where no loss is accepted"),
        (("--accept", "one", "--why", "power cut"), "--accept: got 'one', wanted numbers of periods"),
        (("--accept", "5", "--why", "power cut"), "--accept: got 5, wanted a period with a loss"),
        (("--accept", "1", "--why", " "), "--why: got ' ', wanted the reason"),
    ],
)
def test_what_cannot_be_accepted_is_refused(killed: Path, capsys, words: tuple[str, ...], says: str) -> None:
    status, out, err = check(killed, capsys, *words)
    assert (status, out) == (USAGE, "")
    assert says in err
    assert check(killed, capsys)[0] == 1
