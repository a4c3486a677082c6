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

from tuition.core.errors import OddValueError


def storable(text: str) -> str:
    """`text` with what no database can hold written as escapes: `\\x00`, `\\udce9`."""
    if "\0" not in text and text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", r"\x00")


class Text(TypeDecorator[str]):
    """Compared byte by byte and of any length: PostgreSQL would sort by the language of its database."""

    impl = sqlalchemy.Text
    cache_ok = True

    @property
    def python_type(self) -> type[str]:
        return str

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


class Digits(String):
    """An integer of any size, as decimal digits."""

    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None or (isinstance(value, str) and is_digits(value)):
            return None if value is None else int(value)
        raise OddValueError(value)

    @property
    def python_type(self) -> type[Any]:
        return int


def is_digits(text: str) -> bool:
    """Whether `text` is a number as `Digits` writes it."""
    return text.isascii() and text.removeprefix("-").isdigit()


class _Integer(TypeDecorator[int]):
    """Sums are integers too: PostgreSQL makes a decimal number of them. SQLite stores what it is given."""

    @property
    def python_type(self) -> type[int]:
        return int

    def result_processor(self, dialect: Dialect, coltype: Any) -> Any:
        return _integer_in_sqlite if dialect.name == "sqlite" else _integer


class Integer(_Integer):
    """32 bits."""

    impl = sqlalchemy.Integer
    cache_ok = True


class BigInteger(_Integer):
    """64 bits."""

    impl = sqlalchemy.BigInteger
    cache_ok = True


def _integer_in_sqlite(value: Any) -> Any:
    if value is None or type(value) is int:
        return value
    raise OddValueError(value)


def _integer(value: Any) -> Any:
    return None if value is None else int(value)


class Float(TypeDecorator[float]):
    """Double precision; NaN is stored as NULL."""

    impl = sqlalchemy.Float
    cache_ok = True

    @property
    def python_type(self) -> type[float]:
        return float

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None or math.isnan(value) else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None or isinstance(value, float):
            return value
        raise OddValueError(value)
