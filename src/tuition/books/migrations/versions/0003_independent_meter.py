"""Periods of an independent meter: open rows that are kept up to date, accounts, witnesses, residuals."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COUNTS = ("start_ns", "end_ns", "busy_ns", "worked_ns", "num_lost", "running_ns", "updated_unix_ns")
_PARTS = [
    f"{part}_{unit}" for part in ("in_flight", "residual") for unit in ("wall_ns", "energy_uj", "cost_nusd")
]


def _columns() -> list[sa.Column]:
    def text(name: str, size: int, default: str | None = None) -> sa.Column:
        return sa.Column(name, sa.String(length=size), nullable=default is None, server_default=default)

    return [
        text("kind", 16, "serving"),
        text("run_id", 80),
        text("account", 32),
        sa.Column("number", sa.Integer(), nullable=False, server_default="0"),
        text("status", 16, "closed"),
        text("process", 120, ""),
        sa.Column("witness_ns", sa.BigInteger(), nullable=True),
        sa.Column("cpu_ns", sa.BigInteger(), nullable=True),
        sa.Column("open_requests", sa.Text(), nullable=False, server_default="[]"),
        *(sa.Column(name, sa.BigInteger(), nullable=False, server_default="0") for name in _COUNTS),
        *(
            sa.Column(name, sa.BigInteger(), nullable=name.endswith("energy_uj"), server_default="0")
            for name in _PARTS
        ),
    ]


def upgrade() -> None:
    for column in _columns():
        op.add_column("periods", column)
    op.create_index(op.f("ix_periods_account"), "periods", ["account"], unique=False)
    op.add_column("runs", sa.Column("metered", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("requests", sa.Column("account", sa.String(length=32), nullable=True))


def downgrade() -> None:
    op.drop_column("requests", "account")
    op.drop_column("runs", "metered")
    op.drop_index(op.f("ix_periods_account"), "periods")
    for column in _columns():
        op.drop_column("periods", column.name)
