"""A request's prompt as it was sent and as it was read, its CPU time, and how busy the machine was."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("input_tokens", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE requests SET input_tokens = prompt_tokens")
    op.add_column("requests", sa.Column("cpu_ns", sa.BigInteger(), nullable=True))
    op.add_column("requests", sa.Column("other_load_ppm", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for name in ("input_tokens", "cpu_ns", "other_load_ppm"):
        op.drop_column("requests", name)
