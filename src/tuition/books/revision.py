"""Which schema the code has and which one a database has, without Alembic: importing it takes long."""

from sqlalchemy import Connection, text

HEAD = "0007"
"""The newest revision; a test holds it equal to what the folder of revisions says."""


def current_revision(connection: Connection) -> str | None:
    """The revision the database is at; None for an empty one."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(connection: Connection) -> bool:
    """Bring an older or empty database to HEAD inside the caller's transaction; says whether it was one.

    Raises: BooksError if the database was written by a newer version of tuition.
    """
    if current_revision(connection) == HEAD:
        return False
    from tuition.books.migrate import migrate

    return migrate(connection)
