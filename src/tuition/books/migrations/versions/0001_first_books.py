"""The first books: accounts and entries, rates, runs, requests, periods, models, evaluations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_APPEND_ONLY = ("transactions", "entries", "rates", "prices")
_TABLES = (
    "accounts", "rates", "prices", "transactions", "entries", "runs", "run_costs", "evaluations", "requests",
    "periods", "models",
)  # fmt: skip


def upgrade() -> None:
    _create_ledger()
    _create_training()
    _create_requests()
    _create_periods()
    _refuse_changes()


def downgrade() -> None:
    for table in reversed(_TABLES):
        op.drop_table(table)


def _refuse_changes() -> None:
    """What was posted stays as it was posted; a correction is a new row."""
    if op.get_bind().dialect.name != "sqlite":
        return
    for table in _APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append only'); END"
            )


def _create_ledger() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("name", name=op.f("uq_accounts_name")),
    )
    op.create_table(
        "rates",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("machine_name", sa.String(length=200), nullable=False),
        sa.Column("usd_per_hour", sa.Float(), nullable=False),
        sa.Column("machine_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rates")),
        sa.UniqueConstraint("digest", name=op.f("uq_rates_digest")),
    )
    op.create_table(
        "prices",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("valid_from_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("input_nusd_per_mtok", sa.BigInteger(), nullable=True),
        sa.Column("cached_nusd_per_mtok", sa.BigInteger(), nullable=True),
        sa.Column("output_nusd_per_mtok", sa.BigInteger(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    op.create_table(
        "transactions",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("rate_id", _KEY, nullable=False),
        sa.Column("memo", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rate_id"], ["rates.id"], name=op.f("fk_transactions_rate_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transactions")),
    )
    op.create_index(op.f("ix_transactions_subject"), "transactions", ["subject"], unique=False)
    op.create_table(
        "entries",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("transaction_id", _KEY, nullable=False),
        sa.Column("account_id", _KEY, nullable=False),
        sa.Column("wall_ns", sa.BigInteger(), nullable=False),
        sa.Column("energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("energy_method", sa.String(length=16), nullable=True),
        sa.Column("cost_nusd", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_entries_account_id")),
        sa.ForeignKeyConstraint(
            ["transaction_id"], ["transactions.id"], name=op.f("fk_entries_transaction_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entries")),
    )
    op.create_index(op.f("ix_entries_account_id"), "entries", ["account_id"], unique=False)
    op.create_index(op.f("ix_entries_transaction_id"), "entries", ["transaction_id"], unique=False)


def _create_training() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("recipe", sa.String(length=40), nullable=False),
        sa.Column("scope", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("updated_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("ended_unix_ns", sa.BigInteger(), nullable=True),
        sa.Column("num_resumes", sa.Integer(), nullable=False),
        sa.Column("process", sa.String(length=120), nullable=False),
        sa.Column("rate_id", _KEY, nullable=False),
        sa.Column("settings_toml", sa.Text(), nullable=False),
        sa.Column("corpus_digest", sa.String(length=64), nullable=True),
        sa.Column("num_parameters", sa.BigInteger(), nullable=True),
        sa.Column("num_steps", sa.BigInteger(), nullable=False),
        sa.Column("num_tokens", sa.BigInteger(), nullable=False),
        sa.Column("redone_tokens", sa.BigInteger(), nullable=False),
        sa.Column("flops", sa.String(length=40), nullable=False),
        sa.Column("last_loss", sa.Float(), nullable=True),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["rate_id"], ["rates.id"], name=op.f("fk_runs_rate_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(op.f("ix_runs_model"), "runs", ["model"], unique=False)
    op.create_table(
        "run_costs",
        sa.Column("run_id", sa.String(length=80), nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("wall_ns", sa.BigInteger(), nullable=False),
        sa.Column("energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("energy_method", sa.String(length=16), nullable=True),
        sa.Column("cost_nusd", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_costs_run_id")),
        sa.PrimaryKeyConstraint("run_id", "kind", name=op.f("pk_run_costs")),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("run_id", sa.String(length=80), nullable=True),
        sa.Column("task", sa.String(length=80), nullable=False),
        sa.Column("corpus_digest", sa.String(length=64), nullable=True),
        sa.Column("mean", sa.Float(), nullable=False),
        sa.Column("stderr", sa.Float(), nullable=True),
        sa.Column("num_items", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.String(length=40), nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("details_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    op.create_index(op.f("ix_evaluations_model"), "evaluations", ["model"], unique=False)
    op.create_index("ix_evaluations_run_id", "evaluations", ["run_id"], unique=False)


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.String(length=120), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("weights_digest", sa.String(length=64), nullable=True),
        sa.Column("api_key_id", sa.String(length=80), nullable=True),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("generated_tokens", sa.BigInteger(), nullable=False),
        sa.Column("queue_ns", sa.BigInteger(), nullable=True),
        sa.Column("first_token_ns", sa.BigInteger(), nullable=True),
        sa.Column("total_ns", sa.BigInteger(), nullable=False),
        sa.Column("finish_reason", sa.String(length=16), nullable=False),
        sa.Column("rate_id", _KEY, nullable=False),
        sa.Column("rule", sa.String(length=24), nullable=False),
        sa.Column("num_steps", sa.BigInteger(), nullable=False),
        sa.Column("flops", sa.BigInteger(), nullable=False),
        sa.Column("kv_bytes", sa.BigInteger(), nullable=False),
        sa.Column("computed_tokens", sa.BigInteger(), nullable=False),
        sa.Column("wasted_tokens", sa.BigInteger(), nullable=False),
        sa.Column("energy_method", sa.String(length=16), nullable=True),
        sa.Column("total_machine_ns", sa.BigInteger(), nullable=False),
        sa.Column("total_energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("total_cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("prefill_machine_ns", sa.BigInteger(), nullable=False),
        sa.Column("prefill_energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("prefill_cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("decode_machine_ns", sa.BigInteger(), nullable=False),
        sa.Column("decode_energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("decode_cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("waste_machine_ns", sa.BigInteger(), nullable=False),
        sa.Column("waste_energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("waste_cost_nusd", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["rate_id"], ["rates.id"], name=op.f("fk_requests_rate_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
    )
    op.create_index(op.f("ix_requests_api_key_id"), "requests", ["api_key_id"], unique=False)
    op.create_index(op.f("ix_requests_created_unix_ns"), "requests", ["created_unix_ns"], unique=False)
    op.create_index(op.f("ix_requests_model"), "requests", ["model"], unique=False)


def _create_periods() -> None:
    op.create_table(
        "periods",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("rate_id", _KEY, nullable=False),
        sa.Column("energy_method", sa.String(length=16), nullable=True),
        sa.Column("num_steps", sa.BigInteger(), nullable=False),
        sa.Column("flops", sa.BigInteger(), nullable=False),
        sa.Column("meter_wall_ns", sa.BigInteger(), nullable=False),
        sa.Column("meter_energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("meter_cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("attributed_wall_ns", sa.BigInteger(), nullable=False),
        sa.Column("attributed_energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("attributed_cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("idle_wall_ns", sa.BigInteger(), nullable=False),
        sa.Column("idle_energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("idle_cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("overhead_wall_ns", sa.BigInteger(), nullable=False),
        sa.Column("overhead_energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("overhead_cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("posted_wall_ns", sa.BigInteger(), nullable=False),
        sa.Column("posted_energy_uj", sa.BigInteger(), nullable=True),
        sa.Column("posted_cost_nusd", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["rate_id"], ["rates.id"], name=op.f("fk_periods_rate_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_periods")),
    )
    op.create_index(op.f("ix_periods_model"), "periods", ["model"], unique=False)
    op.create_table(
        "models",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("lineage_json", sa.Text(), nullable=False),
        sa.Column("removed_unix_ns", sa.BigInteger(), nullable=True),
        sa.Column("owned", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", "version", name="uq_models_name_version"),
    )
