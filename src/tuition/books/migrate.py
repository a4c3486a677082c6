"""Bring the database to this version's schema in one transaction: the old schema or the new, never between.

The revisions are in `migrations/versions`, run by Alembic from inside the package; no alembic.ini is needed.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from tuition.books.journal import take_over
from tuition.books.revision import HEAD, current_revision
from tuition.books.schema import APPEND_ONLY
from tuition.core.errors import BooksError

_TEXT_COLUMNS = """
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = current_schema() AND data_type IN ('character varying', 'text')
        AND collation_name IS DISTINCT FROM 'C' AND table_name <> 'alembic_version'
"""
_REFUSE = """
    CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION '% is append only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
    END $$
"""


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's settings, made in memory; `connection` is the one whose transaction the revisions join."""
    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))  # % begins a reference in a Config
    config.attributes["connection"] = connection
    return config


def migrate(connection: Connection, revision: str = HEAD) -> bool:
    """Upgrade inside the caller's transaction; says whether anything changed.

    Raises: BooksError if the database was written by a newer version of tuition.
    """
    current = current_revision(connection)
    if current == revision:
        return False
    config = configuration(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise BooksError(
            f"the books are at revision {current}, this tuition knows up to {HEAD}; use the newer tuition"
        )
    command.upgrade(config, revision)
    if connection.dialect.name == "postgresql":
        _finish_postgresql(connection)
    if revision == HEAD:
        take_over(connection, current)
    return True


def downgrade(connection: Connection, revision: str) -> None:
    """Go back to an older revision, inside the caller's transaction; `base` is the empty database."""
    command.downgrade(configuration(connection), revision)


def _finish_postgresql(connection: Connection) -> None:
    """What the revisions leave out, since SQLite has it otherwise: text without a length and without the
    rules of a language, as in `types`, and triggers that refuse changes."""
    for table, column in connection.execute(text(_TEXT_COLUMNS)).all():
        connection.execute(text(f'ALTER TABLE "{table}" ALTER COLUMN "{column}" TYPE text COLLATE "C"'))
    connection.execute(text(_REFUSE))
    for table in APPEND_ONLY:
        for events, each in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            name = f"{table}_refuse_{each.lower()}"
            when = f"BEFORE {events} ON {table} FOR EACH {each}"
            connection.execute(text(f"DROP TRIGGER IF EXISTS {name} ON {table}"))
            connection.execute(text(f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION refuse_change()"))
