"""Accept losses: what a killed process could not write stays missing, but it is known, with a reason.

An acceptance is a row that names the period, the loss to the last unit, and why. It can be appended only for
a loss that the check finds, and counts only while the check finds exactly this loss (`ledger/audit_losses`).
"""

import time
from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from tuition.books.books import Books
from tuition.books.journal import note_stored
from tuition.books.schema import acceptances, periods
from tuition.core.errors import SettingsError
from tuition.ledger.audit_losses import loss_columns
from tuition.ledger.finding import Loss
from tuition.ledger.periods import close_cut_periods
from tuition.ledger.reconciliation import reconcile_in


def accept_losses(books: Books, period_ids: Sequence[int], why: str) -> None:
    """Accept the losses of these periods, or all losses where none is named; durable on return.

    Raises: SettingsError for an empty reason, and for a period that has no loss, or an accepted one.
    """
    if not why.strip():
        raise SettingsError("why", got=why, wanted="the reason, like 'power cut'")

    def write(connection: Connection) -> None:
        close_cut_periods(connection)
        losses = {each.loss.period_id: each.loss for each in reconcile_in(connection).losses if each.loss}
        for period_id in dict.fromkeys(period_ids or sorted(losses)):
            if period_id not in losses:
                raise SettingsError("accept", got=period_id, wanted=_wanted(connection, period_id, losses))
            values = loss_columns(losses[period_id]) | {"created_unix_ns": time.time_ns(), "why": why.strip()}
            row = insert(acceptances).values(**values).returning(acceptances.c.id)
            note_stored(connection, acceptances, connection.execute(row).scalar_one())

    books.write_now(write)


def _wanted(connection: Connection, period_id: int, losses: dict[int, Loss]) -> str:
    known = connection.execute(select(periods.c.id).where(periods.c.id == period_id)).first()
    accepted = select(acceptances.c.id).where(acceptances.c.period_id == period_id)
    why = "is in the books and has no loss" if known else "is not in the books"
    if connection.execute(accepted).first():
        why = "has a loss that is accepted already"
    open_ones = ", ".join(map(str, sorted(losses))) or "there are none"
    return f"a period with a loss that is not accepted yet ({open_ones}); period {period_id} {why}"
