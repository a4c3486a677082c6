"""Double entry: each cost is taken from the machine and posted to a cause. Each transaction sums to zero.

Accounts: `machine` is the source; `training` and `training overhead` are assets (a model was made);
`inference`, `waste`, `idle` and `overhead` are expenses.
"""

import time
from collections.abc import Sequence

from sqlalchemy import Connection, func, insert, select

from tuition.books.journal import note
from tuition.books.schema import accounts, entries, transactions
from tuition.core.amount import NOTHING, Amount
from tuition.core.records import EnergyMethod

KINDS = {
    "machine": "source",
    "training": "asset",
    "training overhead": "asset",
    "inference": "expense",
    "waste": "expense",
    "idle": "expense",
    "overhead": "expense",
}

Line = tuple[str, Amount]

_ACCOUNTS = select(accounts.c.name, accounts.c.id)
_INSERT_TRANSACTION = insert(transactions).returning(transactions.c.id)
_INSERT_ENTRIES = insert(entries)
"""Made once: making a statement takes longer than running it."""


def balanced(lines: Sequence[Line]) -> list[Line]:
    """The lines and their other side, taken from the machine, so that every unit sums to zero.

    Lines of zero are dropped; unknown energy is unknown on both sides.
    """
    kept = [(account, amount) for account, amount in lines if amount != NOTHING]
    total = sum((amount for _, amount in kept), NOTHING)
    if total.energy_uj is None:
        kept = [(account, Amount(amount.wall_ns, None, amount.cost_nusd)) for account, amount in kept]
    return [*kept, ("machine", -total)] if kept else []


def post(
    connection: Connection,
    kind: str,
    subject: str,
    rate_id: int,
    lines: Sequence[Line],
    *,
    method: EnergyMethod | None,
    memo: str = "",
) -> int | None:
    """Write one balanced transaction; returns its id, or None if there was nothing to post.

    Call it inside `Books.write`. Raises: ValueError for an account that is not in KINDS.
    """
    both_sides = balanced(lines)
    if not both_sides:
        return None
    ids = _account_ids(connection)
    header = {
        "created_unix_ns": time.time_ns(),
        "kind": kind,
        "subject": subject,
        "rate_id": rate_id,
        "memo": memo,
    }
    transaction_id = connection.execute(_INSERT_TRANSACTION, header).scalar_one()
    sides = [
        {
            "transaction_id": transaction_id,
            "account_id": ids[account],
            "wall_ns": amount.wall_ns,
            "energy_uj": amount.energy_uj,
            "energy_method": method if amount.energy_uj is not None else None,
            "cost_nusd": amount.cost_nusd,
        }
        for account, amount in both_sides
    ]
    connection.execute(_INSERT_ENTRIES, sides)
    note(connection, transactions, header | {"id": transaction_id}, sides)
    return transaction_id


def _account_ids(connection: Connection) -> dict[str, int]:
    rows = connection.execute(_ACCOUNTS).all()
    if len(rows) < len(KINDS):
        known = {name for name, _ in rows}
        missing = [{"name": name, "kind": kind} for name, kind in KINDS.items() if name not in known]
        connection.execute(insert(accounts), missing)
        rows = connection.execute(_ACCOUNTS).all()
    return {name: account_id for name, account_id in rows}


def balances(connection: Connection) -> dict[str, Amount]:
    """The balance of each account; their sum is zero."""
    rows = connection.execute(
        select(
            accounts.c.name,
            func.sum(entries.c.wall_ns),
            func.sum(entries.c.energy_uj),
            func.sum(entries.c.cost_nusd),
        )
        .join(entries, entries.c.account_id == accounts.c.id)
        .group_by(accounts.c.name)
    ).all()
    return {name: Amount(int(wall), int(energy or 0), int(cost)) for name, wall, energy, cost in rows}
