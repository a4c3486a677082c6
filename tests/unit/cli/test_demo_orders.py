"""The step of the demo that teaches a pretrained model a task of one's own."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tuition.books.books import open_books
from tuition.cli.demo_orders import OrdersPlan, teach_orders
from tuition.cli.scribe import Scribe
from tuition.core.progress import SilentProgress
from tuition.core.workspace import Workspace
from tuition.ledger.reconciliation import reconcile
from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.registry.registry import Registry
from tuition.spec.machine import detect_machine
from tuition.train.run import Host
from unit.train.base_home import SHAPE, chat_tokenizer


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """With a tiny chat model named `tiny`, long enough for an item of the family `canonical`."""
    tokenizer = chat_tokenizer()
    shape = replace(SHAPE, vocab_size=tokenizer.vocab_size, context_length=640)
    torch.manual_seed(1)
    found = Workspace(tmp_path / "home").create()
    with open_books(found) as books:
        write = lambda folder: save_model(folder, Decoder(shape).initialize(), shape, tokenizer)  # noqa: E731
        Registry(found, books).publish("tiny", write)
    return found


def test_a_task_is_asked_taught_and_asked_again_and_the_second_time_nothing_is_computed(
    workspace: Workspace,
) -> None:
    plan = OrdersPlan("tiny", budget="2s", family="canonical", rows=40, heldout=6)
    said = []
    with open_books(workspace) as books:
        for _ in range(2):
            scribe = Scribe(SilentProgress())
            host = Host(workspace, books, detect_machine(), SilentProgress())
            version = teach_orders(host, scribe, plan)
            assert version is not None
            assert version.reference == "orders@1"
            said.append("".join(scribe.kept))
        assert not reconcile(books).faults
    for text in said:
        assert re.search(r"^canonical +6 +0\.0 .* 1\.0000$", text, re.M), text
        assert len(re.findall(r"^(?:right|wrong): ", text, re.M)) == 2
    assert "Teaching for 2.00 s:" in said[0]
    assert "was taught by an earlier demo" in said[1]
    assert len(list(workspace.evaluations.glob("*.jsonl"))) == 2
