"""Columns of numbers that hold something else. SQLite stores whatever a program writes into them."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, Connection, String, cast, func, select

from tuition.books.schema import metadata
from tuition.books.types import Digits, is_digits

TYPES = {int: "integer", bool: "integer", float: "real"}
"""How SQLite calls what a column of this type may hold, beside null."""


def odd_values(connection: Connection) -> Iterator[tuple[str, object, str, object]]:
    """Table, key, column and value of each number that is none."""
    for table in metadata.sorted_tables:
        key = next(iter(table.primary_key.columns))
        for column in table.columns:
            if (odd := _is_odd(connection, column)) is None:
                continue
            stored = select(cast(key, String), cast(column, String)).where(odd)
            for name, value in connection.execute(stored):
                if not isinstance(column.type, Digits) or not is_digits(str(value)):
                    yield table.name, name, column.name, value


def _is_odd(connection: Connection, column: Column[Any]) -> Any:
    """The condition that picks rows to look at; None where the database has looked already."""
    if isinstance(column.type, Digits):
        return cast(column, String).is_not(None)
    if connection.dialect.name != "sqlite" or column.type.python_type not in TYPES:
        return None
    return func.typeof(column).not_in((TYPES[column.type.python_type], "null"))
