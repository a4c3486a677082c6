"""Ctrl-C in the middle of a step: the step is billed whole, and no other follows."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tuition.books.books import open_books
from tuition.core.workspace import Workspace
from tuition.desk.engine import Engine
from tuition.engine.settings import EngineSettings
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.statements import request_receipts
from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe

SHAPE = ModelShape(280, 64, 2, 2, 2, 32, 96, 64)
SETTINGS = EngineSettings(device="cpu", runner="torch", threads=1)
CALLS: dict[str, Callable[[Engine], object]] = {
    "generate": lambda engine: engine.generate(["to be", "or"], max_tokens=30, ignore_eos=True),
    "stream": lambda engine: list(engine.stream("to be", max_tokens=30, ignore_eos=True)),
    "run": lambda engine: list(engine.run([engine.request([5, 6], max_tokens=30, ignore_eos=True)])),
}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    tokenizer = train_bpe(["to be or not to be, that is the question\n" * 30], vocab_size=270)
    decoder = Decoder(SHAPE).initialize(0.3, torch.Generator().manual_seed(1))
    path = save_model(tmp_path / "my-model", decoder, SHAPE, tokenizer)
    with Engine(path, workspace=Workspace(tmp_path / "home"), settings=SETTINGS) as engine:
        yield engine


@pytest.mark.parametrize("call", CALLS)
def test_the_step_at_hand_is_billed_and_is_the_last(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    steps, forward = [], engine.runner.forward

    def interrupted(*arguments: object) -> object:
        if len(steps) == 4:
            signal.raise_signal(signal.SIGINT)
        steps.append("begun")
        found = forward(*arguments)  # type: ignore[arg-type]
        steps[-1] = "whole"
        return found

    monkeypatch.setattr(engine.runner, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        CALLS[call](engine)
    assert steps == ["whole"] * 5
    assert not engine.loop.has_work
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    engine.close()
    with open_books(Workspace(tmp_path / "home")) as books:
        receipts = list(request_receipts(books, limit=None))
        assert len(receipts) == (2 if call == "generate" else 1)
        assert {receipt.finish_reason for receipt in receipts} == {"cancelled"}
        assert {receipt.generated_tokens for receipt in receipts} == {5}
        assert reconcile(books).findings == ()


def test_between_two_events_the_callers_code_is_interrupted_at_once(engine: Engine) -> None:
    events = engine.stream("to be", max_tokens=9, ignore_eos=True)
    next(events)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_call_sets_handlers_once_however_many_steps_it_takes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, put = [], signal.signal
    monkeypatch.setattr(signal, "signal", lambda *given: (changes.append(given[0]), put(*given))[1])
    (reply,) = engine.generate(["to be"], max_tokens=20, ignore_eos=True)
    assert reply.num_generated == 20
    assert changes.count(signal.SIGINT) == 2
