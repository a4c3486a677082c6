"""A model or score that another program changed in the books is named; what tuition changes itself is not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, text, update

from tuition.books.books import open_books
from tuition.books.migrate import downgrade, migrate
from tuition.books.schema import evaluations, models, prices
from tuition.core.records import Score
from tuition.core.workspace import Workspace
from tuition.ledger.audit_journal import ADDED, CHANGED, GONE
from tuition.ledger.reconciliation import reconcile
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry
from unit.ledger.life import change, copy_of

SCORE = Score("arithmetic", 0.61, 0.02, "accuracy", "exact", 400, None, None, None, None)


def write_folder(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "tuition.json").write_text(json.dumps({"weights_digest": "ab" * 32, "files": {}}))


@pytest.fixture
def registry(workspace: Workspace, database: str) -> Iterator[Registry]:
    """Two versions of a model, the first one with a score."""
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        first = registry.publish("poet", write_folder, Lineage(run_id="r1"))
        registry.record_score(first, SCORE)
        registry.publish("poet", write_folder)
        assert reconcile(books).findings == ()
        yield registry


def findings(registry: Registry) -> set[tuple[str, str]]:
    return {(each.place, each.says) for each in reconcile(registry.books).faults}


MODEL, SCORED = "model 1 (poet@1)", "evaluation 1 (poet@1, arithmetic)"


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (update(evaluations).values(mean=0.97), SCORED),
        (update(evaluations).values(stderr=None), SCORED),
        (update(evaluations).values(num_items=4_000), SCORED),
        (update(evaluations).values(corpus_digest="cd" * 32), SCORED),
        (update(evaluations).values(details_json="{}"), SCORED),
        (update(models).where(models.c.id == 1).values(digest="cd" * 32), MODEL),
        (update(models).where(models.c.id == 1).values(lineage_json="{}"), MODEL),
        (update(models).where(models.c.id == 1).values(path="models/poet/2"), MODEL),
        (update(models).where(models.c.id == 1).values(removed_unix_ns=1), MODEL),
    ],
)
def test_a_model_or_a_score_that_was_changed(registry: Registry, edit, place: str) -> None:
    change(registry.books, edit)
    assert findings(registry) == {(place, CHANGED)}


def test_models_and_scores_that_were_added_or_deleted(registry: Registry) -> None:
    model = copy_of(registry, models, models.c.id == 1, id=9, version=9)
    score = copy_of(registry, evaluations, evaluations.c.id == 1, id=9, mean=1.0)
    change(registry.books, insert(models).values(**model), insert(evaluations).values(**score))
    assert findings(registry) == {("model 9 (poet@9)", ADDED), ("evaluation 9 (poet@1, arithmetic)", ADDED)}
    change(registry.books, delete(models), delete(evaluations))
    assert findings(registry) == {("model 1", GONE), ("model 2", GONE), ("evaluation 1", GONE)}


def test_a_model_that_is_removed_or_was_never_finished_is_no_fault(registry: Registry) -> None:
    def breaks(path: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        registry.publish("poet", breaks)
    registry.remove("poet@1")
    assert findings(registry) == set()
    registry.remove("poet")
    registry.publish("poet", write_folder)
    assert findings(registry) == set()
    change(registry.books, update(models).where(models.c.id == 1).values(removed_unix_ns=None))
    assert findings(registry) == {(MODEL, CHANGED)}


def test_models_of_older_books_are_taken_over_and_money_is_not_taken_over_again(registry: Registry) -> None:
    """A price that was changed before the upgrade is a fault after it."""
    price = {"id": 1, "model": "m", "valid_from_unix_ns": 1, "source": "s", "created_unix_ns": 1}
    books = registry.books
    books.write_now(lambda connection: downgrade(connection, "0006"))
    change(
        books,
        text("DELETE FROM journal"),
        insert(prices).values(**price),
        update(evaluations).values(mean=0.5),
    )
    assert books.write_now(migrate) is True
    assert findings(registry) == {("price 1", ADDED)}
    change(books, update(evaluations).values(mean=0.97))
    assert findings(registry) == {("price 1", ADDED), (SCORED, CHANGED)}
