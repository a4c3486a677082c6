"""The rows of a training run: begun, resumed, brought up to date. `ledger/training` decides when."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from tuition.books.journal import note_stored
from tuition.books.schema import periods, run_costs, runs
from tuition.core.amount import NOTHING, Amount
from tuition.core.errors import BusyError, NotFoundError
from tuition.ledger.periods import amount_of_row, close_cut_periods, write_period
from tuition.ledger.postings import post
from tuition.ledger.process import has_ended, process_identity

Status = Literal["running", "finished", "stopped", "failed"]
Scope = Literal["final run", "all stages", "failed", "exploratory"]
OverheadKind = Literal["data", "evaluation", "checkpoint", "load"]
CostKind = Literal["step", "data", "evaluation", "checkpoint", "load", "other"]


@dataclass(frozen=True)
class RunInfo:
    """What is known about a run when it starts."""

    model: str
    """Name of the model it makes."""
    recipe: str = "pretrain"
    unit: str = "token"
    """What the recipe counts: token, image, window."""
    scope: Scope = "final run"
    settings_toml: str = ""
    corpus_digest: str | None = None
    num_parameters: int | None = None


def new_run_id(model: str) -> str:
    """`<model>-<UTC date and time>-<4 hex digits>`."""
    return f"{model}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def begin_run(connection: Connection, run_id: str, info: RunInfo, rate_id: int) -> None:
    """Insert the row of a new run, with status `running`."""
    now = time.time_ns()
    told = ("model", "recipe", "unit", "scope", "settings_toml", "corpus_digest", "num_parameters")
    row = {name: getattr(info, name) for name in told} | {
        "id": run_id,
        "status": "running",
        "metered": True,
        "created_unix_ns": now,
        "updated_unix_ns": now,
        "process": process_identity(),
        "rate_id": rate_id,
    }
    close_cut_periods(connection)
    connection.execute(insert(runs).values(**row))
    note_stored(connection, runs, run_id)


def resume_run(
    connection: Connection, run_id: str, rate_id: int
) -> tuple[RowMapping, dict[CostKind, Amount]]:
    """Take a run over for this process; returns its row as it was, and its costs so far.

    Raises: NotFoundError for an unknown run, BusyError for one that another process goes on with.
    """
    row = connection.execute(select(runs).where(runs.c.id == run_id)).mappings().first()
    if row is None:
        known = connection.execute(select(runs.c.id).order_by(runs.c.created_unix_ns.desc())).scalars()
        raise NotFoundError("run", run_id, list(known))
    elsewhere = row["status"] == "running" and row["process"] != process_identity()
    if elsewhere and not has_ended(row["process"], row["updated_unix_ns"]):
        raise BusyError(f"run {run_id} goes on in another process", retry_after_s=60)
    taken = {
        "status": "running",
        "reason": "",
        "ended_unix_ns": None,
        "process": process_identity(),
        "rate_id": rate_id,
        "num_resumes": runs.c.num_resumes + 1,
        "updated_unix_ns": time.time_ns(),
    }
    connection.execute(update(runs).where(runs.c.id == run_id).values(**taken))
    note_stored(connection, runs, run_id)
    close_cut_periods(connection)
    return row, _costs_of(connection, run_id)


def write_run(
    connection: Connection,
    values: Mapping[str, object],
    totals: Mapping[CostKind, Amount],
    period: Mapping[str, Any],
) -> None:
    """One transaction: the run's row, its period, its costs by kind, and the postings of what is new.

    What is new is counted from the rows in the books, so that writing the same totals twice posts once.
    """
    run_id, method = period["run_id"], period["energy_method"]
    booked = _costs_of(connection, run_id)
    changes = {kind: amount - booked.get(kind, NOTHING) for kind, amount in totals.items()}
    write_period(connection, period)
    connection.execute(update(runs).where(runs.c.id == run_id).values(**values))
    connection.execute(delete(run_costs).where(run_costs.c.run_id == run_id))
    rows = [
        {
            "run_id": run_id,
            "kind": kind,
            "wall_ns": amount.wall_ns,
            "energy_uj": amount.energy_uj,
            "energy_method": method if amount.energy_uj is not None else None,
            "cost_nusd": amount.cost_nusd,
        }
        for kind, amount in sorted(totals.items())
    ]
    connection.execute(insert(run_costs), rows)
    note_stored(connection, runs, run_id)
    lines = [
        ("training" if kind == "step" else "training overhead", amount)
        for kind, amount in changes.items()
        if (amount.wall_ns, amount.energy_uj or 0, amount.cost_nusd) != (0, 0, 0)
    ]
    post(connection, "training", run_id, period["rate_id"], lines, method=method)


def recover_run(
    connection: Connection, counts: Mapping[str, object], period: Mapping[str, Any]
) -> dict[CostKind, Amount]:
    """Write what a process of the run that was killed had left in its checkpoint: the counts of the run, and
    its own period. Returns the costs that the books did not have: nothing where they hold as much of this
    period, or do not know it. Which part of it was overhead is known, and not of which kind.
    """
    mine = (periods.c.account == period["account"]) & (periods.c.number == period["number"])
    stored = connection.execute(select(periods).where(mine)).mappings().first()
    if stored is None or stored["meter_wall_ns"] >= period["meter_wall_ns"]:
        return {}
    booked = _costs_of(connection, period["run_id"])
    parts: tuple[tuple[CostKind, str], ...] = (("step", "attributed"), ("other", "overhead"))
    gap = {kind: amount_of_row(period, part) - amount_of_row(stored, part) for kind, part in parts}
    totals = booked | {kind: booked.get(kind, NOTHING) + amount for kind, amount in gap.items()}
    write_run(connection, counts, totals, {**period, "status": "cut off"})
    return gap


def _costs_of(connection: Connection, run_id: str) -> dict[CostKind, Amount]:
    rows = connection.execute(select(run_costs).where(run_costs.c.run_id == run_id)).mappings()
    return {row["kind"]: Amount(row["wall_ns"], row["energy_uj"], row["cost_nusd"]) for row in rows}
