"""Rows of .parquet and .arrow files, a few at a time. Needs pyarrow, from the extra `parquet`."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuition.core.errors import DataError, MissingExtraError

_ROWS_AT_ONCE = 256


def iter_table(path: Path, kind: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any], float]]:
    """Number of the row (from 1), its fields, and its share of the file. Raises: DataError,
    MissingExtraError."""
    arrow = _pyarrow("pyarrow")
    try:
        # mapped: read from a plain file, a column of a row group would be held whole
        with arrow.memory_map(str(path)) as file:
            batches, num_rows = _parquet(file, columns) if kind == "parquet" else _arrow(file)
            number = 0
            for batch in batches:
                present = [name for name in columns if name in batch.schema.names]
                if columns[0] not in present:
                    has = ", ".join(batch.schema.names[:8])
                    way_out = f"set field to one of: {has}"
                    raise DataError(path, f"has no column {columns[0]!r}", line=number + 1, way_out=way_out)
                chosen = batch.select(present)
                for begin in range(0, batch.num_rows, _ROWS_AT_ONCE):  # some files are a single batch
                    for row in chosen.slice(begin, _ROWS_AT_ONCE).to_pylist():
                        number += 1
                        yield number, row, 1 / max(1, num_rows or batch.num_rows)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            path, f"is no readable {kind} file ({str(error)[:120]})", way_out="fetch it again"
        ) from error


def _parquet(file: Any, columns: Sequence[str]) -> tuple[Any, int]:
    reader = _pyarrow("pyarrow.parquet").ParquetFile(file)
    present = [name for name in columns if name in reader.schema_arrow.names]
    chosen = present if columns[0] in present else reader.schema_arrow.names[:0] or None
    return reader.iter_batches(batch_size=_ROWS_AT_ONCE, columns=chosen), reader.metadata.num_rows


def _arrow(file: Any) -> tuple[Any, int | None]:
    """`save_to_disk` of the datasets library writes the stream format; others write the file format."""
    ipc = _pyarrow("pyarrow.ipc")
    if file.read(6) == b"ARROW1":
        file.seek(0)
        reader = ipc.open_file(file)
        return (reader.get_batch(index) for index in range(reader.num_record_batches)), None
    file.seek(0)
    return ipc.open_stream(file), None


def _pyarrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(
            "reading .parquet and .arrow files", package="pyarrow", extra="parquet"
        ) from None
