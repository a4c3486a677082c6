"""Idle time and overhead of each model: those of its engine, shared with the other models of that engine.

In: periods and requests of the books.  Out: for each model, at each rate, its part. A base and its adapters
have one account. They share what no request caused by the machine time of their requests, in integers whose
sum is the whole. Without requests it is that of the model whose engine it is.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, func, select

from tuition.books.schema import periods, requests
from tuition.core.amount import NOTHING, Amount

UNITS = ("wall_ns", "energy_uj", "cost_nusd")


@dataclass
class Standing:
    """What an engine that stands ready costs one of its models, by rate."""

    idle: dict[int, Amount] = field(default_factory=dict)
    overhead: dict[int, Amount] = field(default_factory=dict)
    is_shared: bool = False
    """Other models have a part of the same engine's."""


def standing_by_model(
    connection: Connection,
    of_periods: Sequence[ColumnElement[bool]],
    of_requests: Sequence[ColumnElement[bool]],
) -> Mapping[str, Standing]:
    """The parts of all models in the periods and requests that meet these conditions."""
    used: defaultdict[str | None, dict[str, int]] = defaultdict(dict)
    query = select(requests.c.account, requests.c.model, func.sum(requests.c.total_machine_ns))
    query = query.where(requests.c.account.is_not(None), *of_requests)
    for account, model, wall_ns in connection.execute(query.group_by(requests.c.account, requests.c.model)):
        if wall_ns:
            used[account][model] = int(wall_ns)
    found: defaultdict[str, Standing] = defaultdict(Standing)
    for account, owner, rate_id, idle, overhead in _periods(connection, of_periods):
        weights = used.get(account) or {owner: 1}
        for kind, amount in (("idle", idle), ("overhead", overhead)):
            for model, part in split(amount, weights).items():
                mine = getattr(found[model], kind)
                mine[rate_id] = mine.get(rate_id, NOTHING) + part
                found[model].is_shared |= len(weights) > 1
    return found


def split(amount: Amount, weights: Mapping[str, int]) -> dict[str, Amount]:
    """Parts in proportion to the weights, which are not all 0. The parts add up to the amount."""
    total, so_far, given = sum(weights.values()), 0, NOTHING
    parts: dict[str, Amount] = {}
    for name, weight in sorted(weights.items()):
        so_far += weight
        energy = amount.energy_uj
        until = Amount(
            amount.wall_ns * so_far // total,
            None if energy is None else energy * so_far // total,
            amount.cost_nusd * so_far // total,
        )
        parts[name], given = until - given, until
    return parts


def _periods(
    connection: Connection, conditions: Sequence[ColumnElement[bool]]
) -> Iterator[tuple[str | None, str, int, Amount, Amount]]:
    """Account, model, rate, idle and overhead; energy is unknown if that of any period is."""
    keys = (periods.c.account, periods.c.model, periods.c.rate_id)
    sums = [func.sum(periods.c[f"{part}_{unit}"]) for part in ("idle", "overhead") for unit in UNITS]
    known = [func.count(periods.c[f"{part}_energy_uj"]) for part in ("idle", "overhead")]
    query = select(*keys, func.count(), *known, *sums).where(periods.c.kind == "serving", *conditions)
    for row in connection.execute(query.group_by(*keys)):
        account, model, rate_id, count, idle, overhead = row[:6]
        parts = _amount(row[6:9], idle == count), _amount(row[9:12], overhead == count)
        yield account, model, rate_id, *parts


def _amount(units: Sequence[int | None], is_known: bool) -> Amount:
    wall_ns, energy_uj, cost_nusd = (int(unit or 0) for unit in units)
    return Amount(wall_ns, energy_uj if is_known else None, cost_nusd)
