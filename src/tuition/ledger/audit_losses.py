"""Which losses are known: those that the check finds, beside those that were accepted (`ledger/losses`)."""

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, select

from tuition.books.schema import acceptances, place_of
from tuition.ledger.finding import Acceptance, Finding, Loss
from tuition.ledger.periods import amount_columns, amount_of_row
from tuition.ledger.stored import stored_json


def sort_losses(
    connection: Connection, findings: Iterable[Finding]
) -> tuple[tuple[Finding, ...], tuple[Acceptance, ...]]:
    """The findings without the losses that are accepted, and the acceptances that hold.

    The newest acceptance of a period counts, and only for exactly the loss that it names.
    """
    rows = connection.execute(select(acceptances).order_by(acceptances.c.id)).mappings()
    newest = {row["period_id"]: row for row in rows}
    left, accepted = list[Finding](), list[Acceptance]()
    for finding in findings:
        row = newest.pop(finding.loss.period_id, None) if finding.loss is not None else None
        if row is None or finding.loss is None:
            left.append(finding)
        elif loss_of(row) == finding.loss:
            accepted.append(Acceptance(row["id"], row["created_unix_ns"], finding, row["why"]))
        else:
            left.append(finding)
            says = f"accepted another loss of {finding.place} than the one that is found now"
            left.append(Finding(place_of("acceptances", row["id"]), "fault", says))
    for row in newest.values():
        says = f"accepted a loss of period {row['period_id']}, which has none"
        left.append(Finding(place_of("acceptances", row["id"]), "fault", says))
    return tuple(left), tuple(accepted)


def loss_columns(loss: Loss) -> dict[str, Any]:
    """A loss as columns of its acceptance."""
    return {
        "period_id": loss.period_id,
        "running_ns": loss.running_ns,
        "requests": json.dumps(loss.requests),
        **amount_columns("late", loss.late),
    }


def loss_of(row: Any) -> Loss:
    """The loss that an acceptance names."""
    names = stored_json(row["requests"], place_of("acceptances", row["id"]), "requests")
    return Loss(row["period_id"], row["running_ns"], amount_of_row(row, "late"), tuple(names))
