"""The life of an engine with its account, on a clock that a test moves, and ways to change its books."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, select, text

from tuition.books.books import Books
from tuition.books.schema import APPEND_ONLY
from tuition.core.records import SequenceWork, StepTrace
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.audit_journal import ADDED, CHANGED, GONE
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import record_request
from tuition.ledger.reconciliation import Reconciliation, reconcile
from unit.ledger.rows import record_of

MS = 1_000_000


@dataclass
class Life:
    """An engine with its account and its periods, on a clock that the test moves."""

    books: Books
    clock: Callable[[], int]
    account: EngineAccount
    periods: Periods
    rate_id: int

    def step(self, *names: str, ms: int = 20, lost: bool = False, twice: bool = False) -> None:
        """One decode step of some requests; the engine marks it, and tells its trace unless it is lost."""
        begun = self.clock()
        marks = self.account.engine_marks()
        marks.begin(begun)
        self.clock.sleep(ms * MS)
        marks.end(begun, self.clock())
        work = tuple(SequenceWork(name, "decode", 1, 10 * i, 1) for i, name in enumerate(names))
        for _ in range(0 if lost else 2 if twice else 1):
            self.account.add(StepTrace(begun, self.clock(), work))

    def charge(self, name: str) -> None:
        record_request(self.books, record_of(self.account.close(name), self.rate_id)).result()

    def period(self, number: int) -> None:
        """A period with a gap before, between and after its steps."""
        self.clock.sleep(5 * MS)
        self.step(f"a{number}", f"b{number}", f"c{number}")
        self.clock.sleep(2 * MS)
        self.step(f"a{number}", f"c{number}")
        for name in "abc":
            self.charge(f"{name}{number}")
        self.clock.sleep(4 * MS)
        self.periods.write()

    def check(self) -> Reconciliation:
        return reconcile(self.books)


JOURNAL = (CHANGED, GONE, ADDED)


def places(life: Life) -> set[str]:
    """Where the check finds a fault without the journal, which has what tuition itself wrote wrongly."""
    found = life.check()
    assert not found.holds
    return {fault.place for fault in found.faults if fault.says not in JOURNAL}


def says(life: Life, place: str) -> str:
    return " | ".join(fault.says for fault in life.check().faults if fault.place == place)


def change(books: Books, *statements) -> None:
    """As somebody with the file in hand would: without the triggers of append-only tables."""
    verbs = ("update", "delete")
    off = {
        "sqlite": [f"DROP TRIGGER IF EXISTS {name}_refuse_{verb}" for name in APPEND_ONLY for verb in verbs],
        "postgresql": ["SET LOCAL session_replication_role = replica"],
    }

    def write(connection: Connection) -> None:
        for statement in (*map(text, off[connection.dialect.name]), *statements):
            connection.execute(statement)

    books.write_now(write)


def copy_of(life: Life, table, where, **changes) -> dict:
    row = life.books.read(lambda c: c.execute(select(table).where(where)).mappings().first())
    return dict(row) | changes
