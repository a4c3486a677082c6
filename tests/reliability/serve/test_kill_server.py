"""R4, D2: kill -9 at any moment. Whoever holds a finished reply finds its row in the books."""

import json
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from tuition.books.books import open_books
from tuition.books.schema import requests
from tuition.cli.bill_check import MOST_SHOWN
from tuition.cli.main import main
from tuition.core.amount import NOTHING
from tuition.core.workspace import open_workspace
from tuition.ledger.reconciliation import reconcile


def finished_replies(url: str, until: threading.Event, held: list[str]) -> None:
    """Ask again and again, whole and streamed in turn; note the id of each reply that came to its end."""
    with httpx.Client(base_url=url, timeout=10) as http:
        for turn in range(10_000):
            if until.is_set():
                return
            body = {"model": "tiny", "prompt": "a", "max_tokens": 12, "stream": turn % 2 == 0}
            try:
                if not body["stream"]:
                    reply = http.post("/v1/completions", json=body)
                    if reply.status_code == 200 and reply.json()["choices"][0]["finish_reason"]:
                        held.append(reply.json()["id"])
                    continue
                with http.stream("POST", "/v1/completions", json=body) as reply:
                    for line in reply.iter_lines():
                        if line.startswith("data: {"):
                            chunk = json.loads(line[6:])
                            if any(choice["finish_reason"] for choice in chunk["choices"]):
                                held.append(chunk["id"])
            except (httpx.HTTPError, ValueError):
                return


def kill_once(child: Callable[..., Any], folder: Path, after_s: float, *options: str) -> list[str]:
    """One life of the server under load; the ids that clients hold as finished."""
    text = folder.parent / "text.txt"
    text.write_text("to be or not", encoding="utf-8")
    server = child(folder, "--text", str(text), *options)
    held: list[str] = []
    until = threading.Event()
    clients = [threading.Thread(target=finished_replies, args=(server.url, until, held)) for _ in range(3)]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 20
    while not held and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(after_s)
    server.signal(signal.SIGKILL)
    until.set()
    for client in clients:
        client.join()
    return held


def missing_rows(folder: Path, held: list[str]) -> set[str]:
    """Finished replies without a committed row."""
    with open_books(open_workspace(folder)) as books:
        ids = books.read(lambda c: c.execute(select(requests.c.id)).scalars().all())
    booked = [row.removeprefix("req_").rpartition("-")[0] for row in ids]
    assert len(booked) == len(set(booked)), "nothing is booked twice"
    return {reply.removeprefix("cmpl-") for reply in held} - set(booked)


def kill_often(
    child: Callable[..., Any], tmp_path: Path, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every finished reply has its row; the check names each kill and what it has lost, and does not hold."""
    rng, total = random.Random(4), 0
    folder = tmp_path / "books"
    held: list[str] = []
    for _ in range(kills):
        held += kill_once(child, folder, rng.uniform(0.02, 0.5))
        assert missing_rows(folder, held) == set()
    total = len(held)
    with open_books(open_workspace(folder)) as books:
        found = reconcile(books)
    assert (found.faults, found.residual) == ((), NOTHING)
    assert main(["bill", "check", "--workspace", str(folder)]) == 1
    out = capsys.readouterr().out
    assert f"KILLED PROCESSES LEFT RECORDS UNWRITTEN in {kills} places" in out
    assert out.count("up to 1.0 s of its meter are missing") == min(kills, MOST_SHOWN)
    assert "everything that was written holds to the last unit" in out
    assert "every identity holds" not in out
    assert 0 <= found.after_period.seconds < kills, "at most the last second before each kill has no meter"
    known = ["bill", "check", "--workspace", str(folder), "--accept", "all", "--why", "killed by a test"]
    assert main(known) == 0
    assert f"{kills} known losses, accepted:" in capsys.readouterr().out
    print(f"R4: {kills} kills, {total} finished replies, 0 without a row")
    assert total > kills


def test_no_finished_reply_lacks_its_row_after_a_kill(
    child: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kill_often(child, tmp_path, 5, capsys)


@pytest.mark.postgresql
def test_nor_with_the_books_in_postgresql(
    child: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    empty_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUITION_DATABASE_URL", empty_database)
    kill_often(child, tmp_path, 5, capsys)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_finished_reply_lacks_its_row_after_a_hundred_kills(
    child: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kill_often(child, tmp_path, 100, capsys)


def test_the_kill_test_finds_a_server_that_does_not_wait(child: Callable[..., Any], tmp_path: Path) -> None:
    """A detector that cannot fail proves nothing."""
    folder = tmp_path / "books"
    held = kill_once(child, folder, 0.15, "--careless")
    assert missing_rows(folder, held) != set()
