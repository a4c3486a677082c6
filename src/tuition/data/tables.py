"""Rows of .parquet and .arrow files, a few at a time. Needs pyarrow, from the extra `parquet`."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuition.core.errors import MissingExtraError
from tuition.data.readers import BadInput, Row

_ROWS_AT_ONCE = 256


def table_rows(
    path: Path, kind: str, columns: Sequence[str] | None
) -> Iterator[tuple[int, Row | BadInput, float]]:
    """Number of the row (from 1), its fields, and its share of the file.

    The first of `columns` must be there; None takes all columns. Raises: BadInput, MissingExtraError.
    """
    arrow = _pyarrow("pyarrow")
    number = 0
    try:
        # mapped: read from a plain file, a column of a row group would be held whole
        with arrow.memory_map(str(path)) as file:
            batches, num_rows = _parquet(file, columns) if kind == "parquet" else _arrow(file, columns)
            for batch in batches:
                chosen = batch.select([n for n in batch.schema.names if columns is None or n in columns])
                is_whole = _is_whole(arrow, chosen)
                for begin in range(0, batch.num_rows, _ROWS_AT_ONCE):  # some files are a single batch
                    part = chosen.slice(begin, _ROWS_AT_ONCE)
                    for row in part.to_pylist() if is_whole else _single_rows(part, number + 1):
                        number += 1
                        yield number, row, 1 / max(1, num_rows or batch.num_rows)
    except (arrow.ArrowException, OSError, ValueError) as error:
        where = f"after row {number:,} " if number else ""
        problem = f"is no readable {kind} file ({where}{' '.join(str(error).split())[:120]})"
        raise BadInput("damaged", problem, way_out="fetch it again") from None


def _is_whole(arrow: Any, batch: Any) -> bool:
    """False where some text is no UTF-8. Raises: ArrowException for offsets that point outside of the file,
    which would end the process when they are followed."""
    try:
        batch.validate(full=True)
        return True
    except arrow.ArrowException:
        for column in batch.columns:
            is_dictionary = arrow.types.is_dictionary(column.type)
            column.indices.validate(full=True) if is_dictionary else None
            values = column.dictionary if is_dictionary else column
            values.view(_as_binary(arrow, values.type)).validate(full=True)
        return False


def _as_binary(arrow: Any, kind: Any) -> Any:
    """The same type with bytes in place of texts, also inside of lists and structs."""
    types = arrow.types
    if types.is_string(kind):
        return arrow.binary()
    if types.is_large_string(kind):
        return arrow.large_binary()
    if types.is_struct(kind):
        return arrow.struct([part.with_type(_as_binary(arrow, part.type)) for part in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        part = kind.value_field.with_type(_as_binary(arrow, kind.value_type))
        return arrow.list_(part) if types.is_list(kind) else arrow.large_list(part)
    return kind


def _single_rows(batch: Any, first: int) -> Iterator[Row | BadInput]:
    """Rows of a batch in which some are no UTF-8."""
    for at in range(batch.num_rows):
        try:
            row: Row | BadInput = batch.slice(at, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            row = BadInput("bad UTF-8", f"holds text that is no UTF-8 (byte 0x{byte:02x})", first + at)
        yield row


def _check(schema: Any, columns: Sequence[str] | None) -> None:
    """Raises: BadInput unless the first column is there, and each only once."""
    names = schema.names
    if columns and columns[0] not in names:
        texts = [part.name for part in schema if "string" in str(part.type)]
        has = ", ".join(names[:8]) or "none"
        way_out = f"name one that holds text, like --data.field {texts[0]}" if texts else "mend it"
        raise BadInput("missing field", f"has no column {columns[0]!r} (it has {has})", way_out=way_out)
    for name in names if columns is None else columns:
        if names.count(name) > 1:
            problem = f"has {names.count(name)} columns named {name!r}"
            raise BadInput("ambiguous field", problem, way_out="rename all but one of them")


def _parquet(file: Any, columns: Sequence[str] | None) -> tuple[Any, int]:
    reader = _pyarrow("pyarrow.parquet").ParquetFile(file)
    _check(reader.schema_arrow, columns)
    present = [name for name in reader.schema_arrow.names if columns is None or name in columns]
    return reader.iter_batches(batch_size=_ROWS_AT_ONCE, columns=present), reader.metadata.num_rows


def _arrow(file: Any, columns: Sequence[str] | None) -> tuple[Any, int | None]:
    """`save_to_disk` of the datasets library writes the stream format; others write the file format."""
    ipc = _pyarrow("pyarrow.ipc")
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    reader = ipc.open_file(file) if is_file else ipc.open_stream(file)
    _check(reader.schema, columns)
    if is_file:
        return (reader.get_batch(index) for index in range(reader.num_record_batches)), None
    return reader, None


def _pyarrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(
            "reading .parquet and .arrow files", package="pyarrow", extra="parquet"
        ) from None
