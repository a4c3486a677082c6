"""Paths of models inside the workspace are relative to it, so that a workspace may be moved or copied."""

from pathlib import PurePosixPath

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MODELS = sa.table(
    "models",
    sa.column("id", sa.BigInteger),
    sa.column("name", sa.String),
    sa.column("version", sa.Integer),
    sa.column("path", sa.Text),
    sa.column("owned", sa.Boolean),
)


def upgrade() -> None:
    """An owned model lies in `models/<name>/<version>`, wherever the workspace was when it was registered."""
    connection = op.get_bind()
    for row in connection.execute(sa.select(_MODELS).where(_MODELS.c.owned)).all():
        place = f"models/{row.name}/{row.version}"
        before, found, rest = row.path.rpartition(f"/{place}")
        if found and before and (not rest or rest.startswith("/")):
            _set_path(connection, row.id, place + rest)


def downgrade() -> None:
    """Absolute again: SQLite knows in which workspace it is, and other databases never had such paths."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    file = connection.exec_driver_sql("PRAGMA database_list").all()[0][2]
    for row in connection.execute(sa.select(_MODELS)).all():
        if row.path and not PurePosixPath(row.path).is_absolute():
            _set_path(connection, row.id, str(PurePosixPath(file).parent / row.path))


def _set_path(connection: sa.Connection, model_id: int, path: str) -> None:
    connection.execute(sa.update(_MODELS).where(_MODELS.c.id == model_id).values(path=path))
