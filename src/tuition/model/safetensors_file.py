"""Read one safetensors file with every bound checked: a header in JSON, then the bytes of the tensors.

Format: https://huggingface.co/docs/safetensors (8 bytes length of the header, little-endian; header; data).
In: a `MappedFile`.  Out: names, shapes, and views of the mapping; `tensors` makes tensors of them.
"""

import math
from dataclasses import dataclass

from tuition.core.errors import ModelError
from tuition.model.mapped import MAX_JSON_BYTES, MappedFile, parse_json_object

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of tensors that hold weights."""
_WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
           "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
           "I64": 8, "U64": 8, "F64": 8, "C64": 8}  # fmt: skip
_MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the start of the file."""
    num_bytes: int


class SafetensorsFile:
    """The tensors of one file. Raises: ModelError when the file is damaged, before any tensor is used."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        if file.size < 8:
            raise self._damaged("is shorter than its header")
        header_size = int.from_bytes(file.memory[:8], "little")
        if header_size > min(file.size - 8, MAX_JSON_BYTES):
            raise self._damaged(f"says its header has {header_size:,} bytes, the file has {file.size:,}")
        header = parse_json_object(file.memory[8 : 8 + header_size], file.path)
        header.pop("__metadata__", None)
        self.entries = {name: self._entry(name, row, 8 + header_size) for name, row in header.items()}
        end = 8 + header_size
        for name, entry in sorted(self.entries.items(), key=lambda item: (item[1].start, item[1].num_bytes)):
            if entry.start != end:
                raise self._damaged(f"tensor {name[:120]!r} overlaps another or leaves a hole")
            end += entry.num_bytes
        if end != file.size:
            raise self._damaged(f"has {file.size:,} bytes, its header describes {end:,}")

    def _entry(self, name: str, row: object, data_start: int) -> TensorEntry:
        if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
            raise self._damaged(f"has no proper entry for tensor {name[:120]!r}")
        dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _WIDTHS:
            raise self._damaged(f"tensor {name[:120]!r} has the unknown type {str(dtype)[:40]!r}")
        if (
            not _are_counts(shape)
            or len(shape) > _MAX_DIMENSIONS
            or not _are_counts(offsets)
            or len(offsets) != 2
        ):
            raise self._damaged(f"tensor {name[:120]!r} has an impossible shape or place")
        num_bytes = math.prod(shape) * _WIDTHS[dtype]
        start, end = offsets
        if data_start + end > self.file.size:
            raise self._damaged(
                f"tensor {name[:120]!r} ends at byte {data_start + end:,}, the file has {self.file.size:,}"
            )
        if end - start != num_bytes:
            raise self._damaged(
                f"tensor {name[:120]!r} needs {num_bytes:,} bytes, the file gives it {end - start:,}"
            )
        return TensorEntry(dtype, tuple(shape), data_start + start, num_bytes)

    def content(self, name: str) -> memoryview:
        """The bytes of a tensor, a view of the mapped file. Raises: ModelError for types that are not
        floats."""
        entry = self.entries[name]
        if entry.dtype not in FLOATS:
            raise ModelError(
                self.file.path,
                f"tensor {name!r} has type {entry.dtype}; only {', '.join(FLOATS)} can be used",
                way_out="use an unquantised version of the model, or a GGUF file",
            )
        return memoryview(self.file.memory)[entry.start : entry.start + entry.num_bytes]

    def _damaged(self, problem: str) -> ModelError:
        return ModelError(self.file.path, problem, way_out="fetch the file again")


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)
