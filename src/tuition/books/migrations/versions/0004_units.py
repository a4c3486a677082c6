"""Runs count units of their recipe, which have a name: token, image, window."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("unit", sa.String(length=24), nullable=False, server_default="token"))


def downgrade() -> None:
    op.drop_column("runs", "unit")
