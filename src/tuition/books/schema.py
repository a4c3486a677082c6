"""The tables. Time in ns, energy in uJ, money in nUSD, all integers; NULL is unknown, never 0.

Double entry: a transaction has entries whose wall_ns, energy_uj and cost_nusd each sum to zero. The tables in
APPEND_ONLY have triggers that refuse changes. Column types are from `types`: alike in SQLite and PostgreSQL.
"""

from typing import Any

import sqlalchemy
from sqlalchemy import Boolean, Column, ForeignKey, Index, MetaData, Table, UniqueConstraint, false

from tuition.books.types import BigInteger, Digits, Float, Integer, String, Text
from tuition.core.request_record import StoredField, stored_fields

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Key = BigInteger().with_variant(sqlalchemy.Integer, "sqlite")  # only INTEGER counts by itself in SQLite

APPEND_ONLY = ("transactions", "entries", "rates", "prices", "requests", "journal", "acceptances")

accounts = Table(
    "accounts",
    metadata,
    Column("id", Key, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),  # machine, training, inference, waste, idle, ...
    Column("kind", String(16), nullable=False),  # source, asset, expense
)

rates = Table(
    "rates",
    metadata,
    Column("id", Key, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of machine_json
    Column("created_unix_ns", BigInteger, nullable=False),
    Column("machine_name", String(200), nullable=False),
    Column("usd_per_hour", Float, nullable=False),
    Column("machine_json", Text, nullable=False),  # Machine.to_table(): every figure and where it comes from
)

prices = Table(
    "prices",
    metadata,
    Column("id", Key, primary_key=True),
    Column("model", String(200), nullable=False),
    Column("valid_from_unix_ns", BigInteger, nullable=False),
    Column("input_nusd_per_mtok", BigInteger),
    Column("cached_nusd_per_mtok", BigInteger),
    Column("output_nusd_per_mtok", BigInteger),
    Column("source", Text, nullable=False),
    Column("created_unix_ns", BigInteger, nullable=False),
)

transactions = Table(
    "transactions",
    metadata,
    Column("id", Key, primary_key=True),
    Column("created_unix_ns", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),  # training, request, period
    Column("subject", String(200), nullable=False, index=True),  # run id, request id, "period <id>"
    Column("rate_id", ForeignKey("rates.id"), nullable=False),
    Column("memo", Text, nullable=False, default=""),
)

entries = Table(
    "entries",
    metadata,
    Column("id", Key, primary_key=True),
    Column("transaction_id", ForeignKey("transactions.id"), nullable=False, index=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("wall_ns", BigInteger, nullable=False),
    Column("energy_uj", BigInteger),
    Column("energy_method", String(16)),
    Column("cost_nusd", BigInteger, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("model", String(200), nullable=False, index=True),
    Column("recipe", String(40), nullable=False),
    Column("scope", String(40), nullable=False),  # final run, all stages, failed, exploratory
    Column("status", String(16), nullable=False),  # running, finished, stopped, failed
    Column("reason", Text, nullable=False, default=""),  # why it stopped or failed
    Column("created_unix_ns", BigInteger, nullable=False),
    Column("updated_unix_ns", BigInteger, nullable=False),
    Column("ended_unix_ns", BigInteger),
    Column("num_resumes", Integer, nullable=False, default=0),
    Column("process", String(120), nullable=False),  # host, boot, pid and start time: see ledger/process
    Column("rate_id", ForeignKey("rates.id"), nullable=False),
    Column("settings_toml", Text, nullable=False, default=""),
    Column("corpus_digest", String(64)),
    Column("num_parameters", BigInteger),
    Column("num_steps", BigInteger, nullable=False, default=0),
    Column("unit", String(24), nullable=False, server_default="token"),  # what the recipe counts
    Column("num_tokens", BigInteger, nullable=False, default=0),  # of those units
    Column(
        "redone_tokens", BigInteger, nullable=False, default=0
    ),  # of num_tokens: computed again after a resume
    Column("flops", Digits(40), nullable=False, default=0),  # outgrows 64 bits
    Column("last_loss", Float),
    Column("progress", Float, nullable=False, default=0.0),
    Column("metered", Boolean, nullable=False, server_default=false()),  # all its processes have periods
)

run_costs = Table(
    "run_costs",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("kind", String(24), primary_key=True),  # step, data, evaluation, checkpoint, load, other
    Column("wall_ns", BigInteger, nullable=False),
    Column("energy_uj", BigInteger),
    Column("energy_method", String(16)),
    Column("cost_nusd", BigInteger, nullable=False),
)


def _columns(stored: StoredField) -> list[Column[Any]]:
    """The columns of a field of core/request_record."""
    how = stored.how
    if stored.is_amount:
        return [Column(name, BigInteger, nullable=name.endswith("energy_uj")) for name in stored.columns]
    (name,) = stored.columns
    if how.references is not None:
        return [Column(name, ForeignKey(how.references), nullable=False)]
    kind = String(how.length) if how.length is not None else Integer if how.small else BigInteger
    if how.primary_key:
        return [Column(name, kind, primary_key=True)]
    return [Column(name, kind, nullable=stored.nullable, index=how.index or None)]


requests = Table("requests", metadata, *(column for each in stored_fields() for column in _columns(each)))

periods = Table(
    "periods",
    metadata,
    Column("id", Key, primary_key=True),
    Column("kind", String(16), nullable=False, server_default="serving"),  # serving, training
    Column("model", String(200), nullable=False, index=True),
    Column("version", Integer),
    Column("run_id", String(80)),  # of a training run
    Column("account", String(32), index=True),  # NULL in rows from before the meter was independent
    Column("number", Integer, nullable=False, server_default="0"),  # of the period in its account, from 0
    Column("status", String(16), nullable=False, server_default="closed"),  # open, closed, cut off
    Column("process", String(120), nullable=False, server_default=""),  # see ledger/process
    Column("created_unix_ns", BigInteger, nullable=False),
    Column("updated_unix_ns", BigInteger, nullable=False, server_default="0"),
    Column("rate_id", ForeignKey("rates.id"), nullable=False),
    Column("energy_method", String(16)),
    *(
        Column(name, BigInteger, nullable=False, server_default="0")
        for name in ("start_ns", "end_ns", "busy_ns", "worked_ns", "num_lost", "running_ns")
    ),  # documented at ledger/account.PeriodTotals
    Column("witness_ns", BigInteger),
    Column("cpu_ns", BigInteger),
    Column("open_requests", Text, nullable=False, server_default="[]"),  # JSON: ids in flight at the end
    Column("num_steps", BigInteger, nullable=False),
    Column("flops", BigInteger, nullable=False),
    *(
        Column(f"{part}_{unit}", BigInteger, nullable=unit == "energy_uj")
        for part in ("meter", "attributed", "idle", "overhead", "posted")
        for unit in ("wall_ns", "energy_uj", "cost_nusd")
    ),
    *(
        Column(f"{part}_{unit}", BigInteger, nullable=unit == "energy_uj", server_default="0")
        for part in ("in_flight", "residual")
        for unit in ("wall_ns", "energy_uj", "cost_nusd")
    ),
)

acceptances = Table(  # losses that are known and accepted: see ledger/losses
    "acceptances",
    metadata,
    Column("id", Key, primary_key=True),
    Column("created_unix_ns", BigInteger, nullable=False),
    Column("period_id", ForeignKey("periods.id"), nullable=False),
    Column("why", Text, nullable=False),
    Column("running_ns", BigInteger, nullable=False),  # of a step that ran when the process was killed
    Column("late_wall_ns", BigInteger, nullable=False),  # in receipts that are later than the meter
    Column("late_energy_uj", BigInteger),
    Column("late_cost_nusd", BigInteger, nullable=False),
    Column("requests", Text, nullable=False),  # JSON: ids that were in flight and have no receipt
)

journal = Table(  # digests of what each commit has written: see books/journal
    "journal",
    metadata,
    Column("id", Key, primary_key=True),
    Column("created_unix_ns", BigInteger, nullable=False),
    Column("rows_json", Text, nullable=False),  # [table, key, digest of the row] of each row
    Column("digest", String(64), nullable=False),  # SHA-256 over this line and the digest before it
)

models = Table(
    "models",
    metadata,
    Column("id", Key, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("path", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_unix_ns", BigInteger, nullable=False),
    Column(
        "lineage_json", Text, nullable=False
    ),  # corpus digest, settings, tokenizer, parent, run id, evaluation
    Column("removed_unix_ns", BigInteger),  # bills of a removed model stay readable
    Column("owned", Boolean, nullable=False, default=True),  # the folder is inside the workspace
    UniqueConstraint("name", "version", name="uq_models_name_version"),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("id", Key, primary_key=True),
    Column("model", String(200), nullable=False, index=True),
    Column("version", Integer),
    Column("run_id", String(80)),
    Column("task", String(80), nullable=False),  # bits_per_byte, ...
    Column("corpus_digest", String(64)),
    Column("mean", Float, nullable=False),
    Column("stderr", Float),
    Column("num_items", BigInteger, nullable=False),
    Column("unit", String(40), nullable=False),
    Column("created_unix_ns", BigInteger, nullable=False),
    Column("details_json", Text, nullable=False, default="{}"),
)
Index("ix_evaluations_run_id", evaluations.c.run_id)

_WORDS = {"entries": "entry", "run_costs": "cost of run", "journal": "journal line"}


def place_of(table: str, key: object) -> str:
    """How findings and errors name a row: `request req_x-0`, `run bard-1`."""
    return f"{_WORDS.get(table, table.removesuffix('s'))} {key}"
