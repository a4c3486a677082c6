"""A journal of digests of everything that was written, accepted losses, and requests that cannot change."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_APPEND_ONLY = ("requests", "journal", "acceptances")


def upgrade() -> None:
    op.create_table(
        "acceptances",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("period_id", _KEY, nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("running_ns", sa.BigInteger(), nullable=False),
        sa.Column("late_wall_ns", sa.BigInteger(), nullable=False),
        sa.Column("late_energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("late_cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["period_id"], ["periods.id"], name=op.f("fk_acceptances_period_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_acceptances")),
    )
    op.create_table(
        "journal",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("rows_json", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal")),
    )
    if op.get_bind().dialect.name == "sqlite":
        for table in _APPEND_ONLY:
            for verb in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append only'); END"
                )


def downgrade() -> None:
    op.drop_table("journal")
    op.drop_table("acceptances")
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(f"DROP TRIGGER IF EXISTS requests_refuse_{verb}")
    else:
        for each in ("row", "statement"):
            op.execute(f"DROP TRIGGER IF EXISTS requests_refuse_{each} ON requests")
