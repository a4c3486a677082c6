"""Bring the database to this version's schema in one transaction: the old schema or the new, never between.

The revisions are in `migrations/versions`, run by Alembic from inside the package; no alembic.ini is needed.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from tuition.core.errors import BooksError

HEAD = "0001"
"""The newest revision; a test holds it equal to what the folder says."""


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's settings, made in memory; `connection` is the one whose transaction the revisions join."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def current_revision(connection: Connection) -> str | None:
    """The revision the database is at; None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


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
    return True


def downgrade(connection: Connection, revision: str) -> None:
    """Go back to an older revision, inside the caller's transaction; `base` is the empty database."""
    command.downgrade(configuration(connection), revision)
