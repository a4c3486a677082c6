"""Column types that behave alike on every database. `schema` takes them in place of SQLAlchemy's own.

SQLite knows neither lengths nor collations, sums integers to integers, and stores NaN as NULL; PostgreSQL
differs in each. Text that no database can hold (NUL, half of a surrogate pair, as in a file name that is not
UTF-8) is stored with these characters escaped.
"""

import math
from typing import Any

import sqlalchemy
from sqlalchemy import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine


def storable(text: str) -> str:
    """`text` with what no database can hold written as escapes: `\\x00`, `\\udce9`."""
    if "\0" not in text and text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", r"\x00")


class Text(TypeDecorator[str]):
    """Compared byte by byte and of any length: PostgreSQL would sort by the language of its database."""

    impl = sqlalchemy.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return sqlalchemy.Text(collation="C")
        return super().load_dialect_impl(dialect)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class String(Text):
    """Text with a usual length, which is documentation only."""

    impl = sqlalchemy.String
    cache_ok = True


class BigInteger(TypeDecorator[int]):
    """64 bits. Sums are integers too: PostgreSQL makes a decimal number of them."""

    impl = sqlalchemy.BigInteger
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: Any) -> Any:
        if dialect.name == "sqlite":
            return None
        return lambda value: None if value is None else int(value)


class Float(TypeDecorator[float]):
    """Double precision; NaN is stored as NULL."""

    impl = sqlalchemy.Float
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None or math.isnan(value) else value
