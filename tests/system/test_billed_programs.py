"""A Python program that uses a model is billed like the server: `tuition bill request` finds its replies."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from forge import TUITION, Forge, ForgedProcess
from tuition.books.books import open_books
from tuition.books.journal import read_lines
from tuition.core.errors import BooksError, NotFoundError
from tuition.core.workspace import Workspace
from tuition.desk.engine import Engine
from tuition.engine.offline import generate_file
from tuition.engine.settings import EngineSettings
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.statements import of_model, request_receipts
from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe

SHAPE = ModelShape(280, 64, 2, 2, 2, 32, 96, 64)
PROGRAM = """
import json, sys
from tuition import Engine, EngineSettings
with Engine(sys.argv[1], settings=EngineSettings(device="cpu", runner="torch")) as engine:
    replies = engine.generate(["to be", "or not"], max_tokens=3)
    print(json.dumps({reply.request_id: engine.cost_of(reply.request_id).total.usd for reply in replies}))
"""


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    tokenizer = train_bpe(["to be or not to be, that is the question\n" * 30], vocab_size=270)
    decoder = Decoder(SHAPE).initialize(0.3, torch.Generator().manual_seed(1))
    return save_model(tmp_path / "my-model", decoder, SHAPE, tokenizer)


@pytest.fixture
def run(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ForgedProcess]]:
    """Starts programs whose books are in `home`."""
    monkeypatch.setenv("TUITION_HOME", str(tmp_path / "home"))
    started: list[ForgedProcess] = []

    def start(program: str, *arguments: str) -> ForgedProcess:
        started.append(forge.start(program, arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(30)
        process.close()


def test_a_program_has_receipts(run: Callable[..., ForgedProcess], model_path: Path, tmp_path: Path) -> None:
    done = run(PROGRAM, str(model_path))
    out, errors = done.communicate(300)
    assert done.returncode == 0, errors
    costs = json.loads(out.splitlines()[-1])
    assert len(costs) == 2
    for request_id, usd in costs.items():
        shown = run(TUITION, "bill", "request", request_id, "--format", "json")
        out, errors = shown.communicate(300)
        assert shown.returncode == 0, errors
        receipt = json.loads(out)
        assert (receipt["model"], receipt["cost_usd"]) == ("my-model", usd)
    with open_books(Workspace(tmp_path / "home")) as books:
        assert reconcile(books).holds


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "raise KeyError"])
def test_an_engine_that_the_program_does_not_close_leaves_books_in_order(
    run: Callable[..., ForgedProcess], model_path: Path, tmp_path: Path, ending: str
) -> None:
    program = f"""
import sys
from tuition import Engine, EngineSettings
engine = Engine(sys.argv[1], settings=EngineSettings(device="cpu", runner="torch"))
engine.generate(["to be"], max_tokens=3)
{ending}
"""
    _, errors = run(program, str(model_path)).communicate(300)
    assert "BooksError" not in errors
    with open_books(Workspace(tmp_path / "home")) as books:
        found = reconcile(books)
    assert found.findings == ()
    assert found.requests.wall_ns > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_told_to_end_leaves_books_in_order(
    run: Callable[..., ForgedProcess], model_path: Path, tmp_path: Path, number: signal.Signals
) -> None:
    prompts, replies = tmp_path / "prompts.jsonl", tmp_path / "replies.jsonl"
    prompts.write_text("".join(json.dumps({"id": f"a{i}", "prompt": "to be"}) + "\n" for i in range(50_000)))
    process = run(TUITION, "generate", str(model_path), "--prompts", str(prompts), "--out", str(replies))
    deadline = time.monotonic() + 200
    while not (replies.exists() and replies.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(100)
    assert process.returncode == 128 + number, told
    with open_books(Workspace(tmp_path / "home")) as books:
        found = reconcile(books)
    assert found.findings == ()
    assert found.requests.wall_ns > 0


def test_replies_that_end_in_one_step_share_a_commit(model_path: Path, tmp_path: Path) -> None:
    prompts, replies = tmp_path / "prompts.jsonl", tmp_path / "replies.jsonl"
    prompts.write_text('{"prompt": "to be"}\n' * 96)
    workspace, settings = Workspace(tmp_path / "home"), EngineSettings(device="cpu", max_batch=32)
    with open_books(workspace.create()) as books:
        with Engine(model_path, workspace=workspace, settings=settings, books=books) as engine:
            report = generate_file(engine, prompts, replies, max_tokens=4, ignore_eos=True)
        lines = [line["rows_json"] for line in books.read(lambda c: list(read_lines(c)))]
        commits = sum('"requests"' in line for line in lines)
        assert (report.num_done, len(request_receipts(books, limit=None))) == (96, 96)
        assert commits <= 96 / 6, "a step's first row may go before the others are queued"
        assert reconcile(books).holds


def test_a_refused_row_takes_no_other_of_its_step_along(model_path: Path, tmp_path: Path) -> None:
    workspace, settings = Workspace(tmp_path / "home"), EngineSettings(device="cpu")
    with open_books(workspace.create()) as books:
        with Engine(model_path, workspace=workspace, settings=settings, books=books) as engine:
            engine.id_prefix = "taken"
            engine.generate(["to be"], max_tokens=2)
        with Engine(model_path, workspace=workspace, settings=settings, books=books) as engine:
            engine.id_prefix = "taken"
            with pytest.raises(BooksError, match="taken-1 is in the books with other figures"):
                engine.generate(["to be", "or", "not"], max_tokens=3, ignore_eos=True)
            assert engine.cost_of("taken-3").total.wall_ns > 0
        booked = {receipt.cost.request_id for receipt in request_receipts(books, limit=None)}
        assert booked == {"taken-1", "taken-2", "taken-3"}
        assert reconcile(books).holds


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def test_a_killed_command_has_written_no_reply_without_its_receipt(
    run: Callable[..., ForgedProcess], model_path: Path, tmp_path: Path
) -> None:
    """And continues: each line has one reply in the end. Lost is at most what ended in the step at hand."""
    prompts, replies = tmp_path / "prompts.jsonl", tmp_path / "replies.jsonl"
    prompts.write_text('{"prompt": "to be", "ignore_eos": true}\n' * 1_200)
    command = [TUITION, "generate", str(model_path), "--max-tokens", "2"]
    command += ["--prompts", str(prompts), "--out", str(replies), "--engine.max-batch", "16"]
    for _ in range(3):
        process = run(*command)
        size, until = size_of(replies), time.monotonic() + 200
        while size_of(replies) <= size + 20_000 and time.monotonic() < until:
            time.sleep(0.0002)  # the kill is to come soon after a line was written
        process.kill()
        process.wait(30)
    whole = [line for line in replies.read_text().splitlines(keepends=True) if line.endswith("\n")]
    written = {json.loads(line)["request"] for line in whole}
    with open_books(Workspace(tmp_path / "home")) as books:
        booked = {receipt.cost.request_id for receipt in request_receipts(books, limit=None)}
    assert 0 < len(written) < 1_200
    assert written <= booked
    assert len(booked - written) <= 3 * 16
    assert run(*command).wait(300) == 0
    rows = [json.loads(line) for line in replies.read_text().splitlines()]
    assert sorted(row["line"] for row in rows) == list(range(1, 1_201))
    assert written <= {row["request"] for row in rows}, "what was written stays"


def test_leaving_early_is_billed_and_other_requests_have_no_cost(model_path: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home")
    settings = EngineSettings(device="cpu", runner="torch")
    with Engine(model_path, workspace=workspace, settings=settings) as engine:
        stream = engine.stream("to be", max_tokens=20, ignore_eos=True)
        request_id = next(stream).request_id
        stream.close()  # type: ignore[attr-defined]
        assert engine.cost_of(request_id).total.wall_ns > 0
        with pytest.raises(NotFoundError, match="other"):
            engine.cost_of("other")
    with open_books(workspace) as books:
        (receipt,) = request_receipts(books, *of_model("my-model"), limit=2)
        assert (receipt.request_id, receipt.finish_reason) == (request_id, "cancelled")
        assert reconcile(books).holds


def test_a_model_that_does_not_load_leaves_books_in_order(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home")
    with pytest.raises(NotFoundError):
        Engine("no-such-model", workspace=workspace)
    with open_books(workspace) as books:
        assert reconcile(books).holds
