"""The schema in the code is the schema that the revisions make, in one step or not at all."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, inspect, text
from sqlalchemy.exc import IntegrityError

from tuition.books.books import open_books
from tuition.books.migrate import configuration, downgrade, migrate
from tuition.books.revision import HEAD, current_revision, upgrade
from tuition.books.schema import APPEND_ONLY, metadata, prices
from tuition.core.errors import BooksError
from tuition.core.workspace import Workspace


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def workspace(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose database is empty, without tables."""
    if request.param == "postgresql":
        monkeypatch.setenv("TUITION_DATABASE_URL", request.getfixturevalue("empty_database"))
    return Workspace(tmp_path)


def test_the_revisions_make_the_schema_of_the_code(workspace: Workspace) -> None:
    with open_books(workspace) as books:
        assert books.read(current_revision) == HEAD
        differences = books.read(lambda c: compare_metadata(MigrationContext.configure(c), metadata))
        assert differences == []


def test_head_is_the_newest_revision_in_the_folder() -> None:
    assert ScriptDirectory.from_config(configuration()).get_heads() == [HEAD]


def test_opening_again_changes_nothing(workspace: Workspace) -> None:
    open_books(workspace).close()
    before = workspace.books.read_bytes() if workspace.books.exists() else None
    with open_books(workspace) as books:
        assert books.write_now(migrate) is False
        assert books.write_now(upgrade) is False
    assert before is None or workspace.books.read_bytes() == before


def test_down_and_up_again_is_the_same_schema(workspace: Workspace) -> None:
    with open_books(workspace) as books:
        books.write_now(lambda connection: downgrade(connection, "base"))
        left = books.read(lambda connection: set(inspect(connection).get_table_names()))
        assert left == {"alembic_version"}
        assert books.write_now(migrate) is True
        assert books.read(lambda c: compare_metadata(MigrationContext.configure(c), metadata)) == []


OLD_MODEL = (
    "INSERT INTO models (name, version, path, digest, created_unix_ns, lineage_json, owned) "
    "VALUES (:name, :version, :path, 'd', 1, '{}', :owned)"
)


def test_absolute_paths_of_models_become_relative(workspace: Workspace) -> None:
    """Wherever the workspace was when they were registered; a model that is not ours stays where it is."""
    old = [
        ("poet", 1, "/old/place/models/poet/1", True, "models/poet/1"),
        ("poet", 2, "/models/poet/2/models/poet/2", True, "models/poet/2"),
        ("small", 1, "/old/models/small/1/small.gguf", True, "models/small/1/small.gguf"),
        ("poet", 12, "/old/models/poet/123", True, "/old/models/poet/123"),
        ("other", 1, "/somewhere/models/other/1", False, "/somewhere/models/other/1"),
    ]
    with open_books(workspace) as books:
        books.write_now(lambda connection: downgrade(connection, "0001"))
        for name, version, path, owned, _ in old:
            values = {"name": name, "version": version, "path": path, "owned": owned}
            books.write_now(lambda connection, v=values: connection.execute(text(OLD_MODEL), v) and None)
        assert books.write_now(migrate) is True
        paths = books.read(lambda c: c.execute(text("SELECT path FROM models ORDER BY id")).scalars().all())
    assert paths == [wanted for *_, wanted in old]


def test_a_migration_that_fails_leaves_the_old_schema(workspace: Workspace) -> None:
    with open_books(workspace) as books:
        books.write_now(lambda connection: downgrade(connection, "base"))

        def breaks(connection: Connection) -> None:
            migrate(connection)
            assert inspect(connection).has_table("requests")
            raise KeyError("power")

        with pytest.raises(KeyError):
            books.write_now(breaks)
        left = books.read(lambda connection: set(inspect(connection).get_table_names()))
        assert left == {"alembic_version"}


def test_books_of_a_newer_version_are_refused(workspace: Workspace) -> None:
    with open_books(workspace) as books:
        books.write_now(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")) and None)
    with pytest.raises(BooksError, match=r"9999.*newer"):
        open_books(workspace)


@pytest.mark.parametrize("statement", ["UPDATE {} SET created_unix_ns = 1", "DELETE FROM {}"])
def test_what_was_posted_cannot_be_changed(workspace: Workspace, statement: str) -> None:
    assert "prices" in APPEND_ONLY
    row = {"model": "m", "valid_from_unix_ns": 1, "source": "test", "created_unix_ns": 1}
    with open_books(workspace) as books:
        books.write_now(lambda connection: connection.execute(insert(prices).values(**row)) and None)
        with pytest.raises(IntegrityError, match="append only"):
            books.write_now(lambda connection: connection.execute(text(statement.format("prices"))) and None)
