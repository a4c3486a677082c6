"""An adapter is a model of its own in receipts and statements, on the account of its base's engine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sqlalchemy import update

from adapter_workspace import fill, publish_adapter, publish_base, random_adapter
from tuition.books.books import Books, open_books
from tuition.books.schema import requests
from tuition.core.digests import digest_of_pair
from tuition.core.errors import BusyError, ModelError, NotFoundError, RequestError, SettingsError
from tuition.core.workspace import Workspace
from tuition.desk.engine import Engine
from tuition.engine.engine import Engine as PlainEngine
from tuition.engine.settings import EngineSettings
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.statements import request_receipts, statement
from tuition.model.folder import ModelFolder, open_model
from tuition.model.load import load_decoder
from tuition.model.lora import merged_tensors
from tuition.model.memory import model_in_memory
from tuition.registry.registry import Registry
from unit.ledger.life import change

SETTINGS = EngineSettings(device="cpu", threads=1, precision="float32", cache_bytes="8MiB")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home").create()


@pytest.fixture
def books(workspace: Workspace) -> Iterator[Books]:
    with open_books(workspace) as opened:
        fill(workspace, opened, ("support", "legal"))
        yield opened


def opened(workspace: Workspace, books: Books, model: str = "base", **changes) -> Engine:
    return Engine(model, settings=replace(SETTINGS, **changes), workspace=workspace, books=books)


def merged(registry: Registry, name: str, seed: int) -> ModelFolder:
    """The model that the adapter makes of its base, in memory."""
    base = registry.base_of(registry.get(name))
    folder, adapter = open_model(base.path), random_adapter(base, seed)
    return model_in_memory(folder.shape, dict(merged_tensors(folder, adapter)), folder.tokenizer)


def named(books: Books, request_id: str) -> tuple[str, int | None, str | None]:
    """Model, version and digest in the receipt of a request."""
    found = next(r for r in request_receipts(books, limit=None) if r.cost.request_id == request_id)
    return found.model, found.version, found.weights_digest


def test_requests_of_a_base_and_its_adapters_in_one_batch_are_billed_under_their_own_names(
    workspace: Workspace, books: Books
) -> None:
    registry = Registry(workspace, books)
    base, support = registry.get("base"), registry.get("support")
    with opened(workspace, books) as engine:
        engine.add_adapter("support")
        engine.add_adapter("legal@1")
        mixed = [engine.request([5, 6, 7], max_tokens=6, temperature=0, variant=name, ignore_eos=True)
                 for name in (None, "support", "legal")]  # fmt: skip
        replies = {reply.variant: reply for reply in engine.run(mixed)}
        rows = {name: named(books, reply.request_id) for name, reply in replies.items()}
    assert rows[None] == ("base", 1, base.digest)
    assert rows["support"] == ("support", 1, digest_of_pair(support.digest, base.digest))
    assert rows["legal"][:2] == ("legal", 1)
    assert len({reply.token_ids for reply in replies.values()}) == 3
    for seed, name in enumerate(("support", "legal")):
        with PlainEngine(merged(registry, name, seed), settings=SETTINGS) as engine:
            want = engine.generate([[5, 6, 7]], max_tokens=6, temperature=0, ignore_eos=True)[0]
        assert replies[name].token_ids == want.token_ids
        sheet = next(sheet for sheet in statement(books, name).models)
        assert (sheet.model, sheet.num_requests, sheet.generated_tokens) == (name, 1, 6)
        assert sheet.overhead.cost_nusd > 0, "its part of the time to load the base"
    assert reconcile(books).holds


def test_an_adapter_is_opened_with_its_base(workspace: Workspace, books: Books) -> None:
    with opened(workspace, books, "support") as engine:
        assert (engine.name, engine.base.name) == ("support", "base")
        mine = engine.generate([[5, 6, 7]], max_tokens=4, temperature=0, ignore_eos=True)[0]
        plain = engine.generate([[5, 6, 7]], max_tokens=4, temperature=0, variant=None, ignore_eos=True)[0]
        assert named(books, mine.request_id)[0] == "support"
        assert named(books, plain.request_id)[0] == "base"
        assert mine.token_ids != plain.token_ids
    with opened(workspace, books) as engine:
        engine.add_adapter("support")
        beside = engine.generate([[5, 6, 7]], max_tokens=4, temperature=0, variant="support", ignore_eos=True)
        assert named(books, beside[0].request_id) == named(books, mine.request_id)
    assert beside[0].token_ids == mine.token_ids
    assert reconcile(books).holds


def test_a_receipt_under_the_name_of_an_adapter_that_did_not_make_it_is_a_fault(
    workspace: Workspace, books: Books
) -> None:
    with opened(workspace, books) as engine:
        engine.generate([[5, 6]], max_tokens=1)
    change(books, update(requests).values(model="support"))
    found = [finding.says for finding in reconcile(books).faults]
    assert "is of model support, and its meter was that of model base" in found


def test_receipts_of_weights_that_are_rounded_agree_with_their_meter(
    workspace: Workspace, books: Books
) -> None:
    """Their digest is that of no registered version."""
    publish_base(Registry(workspace, books), "other", seed=9)
    rounded = {"precision": "bfloat16", "runner": "torch"}
    for model, beside in (("base", "legal"), ("support", "legal"), ("support", None)):
        with opened(workspace, books, model, **rounded) as engine:
            if beside is not None:
                engine.add_adapter(beside)
            reply = engine.generate([[5, 6]], max_tokens=1, variant=beside)[0]
            assert named(books, reply.request_id)[0] == (beside or "base")
    assert reconcile(books).holds
    change(books, update(requests).where(requests.c.model == "legal").values(model="other"))
    found = {finding.says for finding in reconcile(books).faults}
    assert {
        f"is of model other, and its meter was that of model {name}" for name in ("base", "support")
    } < found


def test_what_is_no_adapter_of_this_base_is_refused_in_one_line(workspace: Workspace, books: Books) -> None:
    registry = Registry(workspace, books)
    other = publish_base(registry, "other", seed=9)
    publish_adapter(registry, "stranger", other, seed=3)
    with opened(workspace, books) as engine:
        with pytest.raises(ModelError, match=r"stranger@1: is an adapter of other@1 .*use it with its base"):
            engine.add_adapter("stranger")
        with pytest.raises(SettingsError, match=r"adapters: got 'other@1', wanted an adapter"):
            engine.add_adapter("other")
        with pytest.raises(NotFoundError, match="did you mean 'support'"):
            engine.add_adapter("suport")
        with pytest.raises(NotFoundError):
            engine.add_adapter(str(registry.get("support").path))  # by its registered name alone
        engine.add_adapter("support")
        with pytest.raises(SettingsError, match="wanted a new name"):
            engine.add_adapter("support")
        reply = engine.generate([[1, 2]], max_tokens=1)[0]
        assert named(books, reply.request_id)[0] == "base"
    with pytest.raises(ModelError, match="is an adapter, which is used by its registered name"):
        Engine(registry.get("support").path, workspace=workspace, books=books)


def test_an_adapter_goes_when_nobody_uses_it(workspace: Workspace, books: Books) -> None:
    with opened(workspace, books) as engine:
        engine.add_adapter("support")
        stream = engine.stream([5, 6], max_tokens=20, variant="support", ignore_eos=True)
        next(stream)
        with pytest.raises(BusyError):
            engine.remove_variant("support")
        stream.close()
        engine.remove_variant("support")
        with pytest.raises(RequestError, match="support"):
            engine.generate([[5, 6]], max_tokens=1, variant="support")


def test_weights_are_not_swapped_under_their_adapters(workspace: Workspace, books: Books) -> None:
    base = Registry(workspace, books).get("base")
    folder = open_model(base.path)
    doubled = {name: tensor * 2 for name, tensor in load_decoder(folder).named_parameters()}
    new = model_in_memory(folder.shape, doubled, folder.tokenizer)
    with opened(workspace, books) as engine:
        engine.add_adapter("support")
        with pytest.raises(SettingsError, match="a model with support"):
            engine.swap_weights(new)
        engine.remove_variant("support")
        engine.swap_weights(new)
        with pytest.raises(ModelError, match="is an adapter of base@1"):
            engine.add_adapter("support")


def test_receipts_name_the_new_weights_from_the_step_of_the_swap_on(
    workspace: Workspace, books: Books
) -> None:
    """A reply that ended before the swap names the old ones, also where it is settled afterwards."""
    folder = open_model(Registry(workspace, books).get("base").path)
    doubled = {name: tensor * 2 for name, tensor in load_decoder(folder).named_parameters()}
    new = model_in_memory(folder.shape, doubled, folder.tokenizer)
    with opened(workspace, books) as engine:
        service = engine.service()
        before, after = (engine.request([5, 6], max_tokens=3) for _ in range(2))
        ended = service.submit(before).result()
        service.swap_weights(new)
        later = service.submit(after).result()
        service.stop()
        for reply in (later, ended):
            engine.desk_of(reply).settle(reply)
        assert named(books, before.id)[2] == folder.digest()
        assert named(books, after.id)[2] == new.digest() != folder.digest()
