"""Read one GGUF file with every bound checked: metadata, then a table of tensors, then their bytes.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
In: a `MappedFile`.  Out: metadata as plain values, and rows of raw blocks; nothing is copied until it is
asked for.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

from tuition.core.errors import ModelError
from tuition.model.gguf_blocks import values_of
from tuition.model.mapped import MappedFile

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
            10: "<Q", 11: "<q", 12: "<d"}  # fmt: skip
"""Type number in the file -> how struct reads it."""
_STRING, _ARRAY = 8, 9
_MAX_ENTRIES = 2**24
"""Most keys, tensors, or elements of one list; the largest vocabularies are a hundred times smaller."""
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies, and as what."""

    type: GGMLQuantizationType
    shape: tuple[int, ...]
    """(rows, columns) as in torch: the file lists dimensions the other way round."""
    start: int
    num_bytes: int


class _Reader:
    """A position in the file that never leaves it."""

    def __init__(self, file: MappedFile) -> None:
        self.file, self.position = file, 0

    def damaged(self, problem: str) -> ModelError:
        place = f"{problem} (at byte {self.position:,})"
        return ModelError(self.file.path, place, way_out="fetch the file again")

    def take(self, size: int) -> bytes:
        if size > self.file.size - self.position:
            raise self.damaged(f"wants {size:,} more bytes, {self.file.size - self.position:,} are left")
        start, self.position = self.position, self.position + size
        return self.file.memory[start : self.position]

    def scalar(self, format: str) -> Any:
        value = struct.unpack(format, self.take(struct.calcsize(format)))[0]
        # The shortest decimal that gives the same float32: 1e-05, not 9.999999747378752e-06.
        return float(str(np.float32(value))) if format == "<f" else value

    def count(self, what: str, least_bytes: int) -> int:
        """A number of things that take at least `least_bytes` each, so that a wild number is refused at
        once.
        """
        count = self.scalar("<Q")
        if count > _MAX_ENTRIES or count * least_bytes > self.file.size - self.position:
            raise self.damaged(f"says it has {count:,} {what}")
        return count

    def string(self) -> str:
        try:
            return self.take(self.count("bytes in a text", 1)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged("has a text that is not UTF-8") from error

    def value(self) -> Any:
        kind = self.scalar("<I")
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise self.damaged(f"has a value of the unknown type {kind}")
        return self.scalar(_SCALARS[kind])

    def array(self) -> list[Any]:
        kind = self.scalar("<I")
        if kind == _STRING:
            return [self.string() for _ in range(self.count("texts in a list", 8))]
        if kind not in _SCALARS:
            raise self.damaged(f"has a list of the unknown type {kind}")
        format = _SCALARS[kind]
        width = struct.calcsize(format)
        count = self.count("numbers in a list", width)
        return np.frombuffer(self.take(count * width), dtype=format).tolist()


class GgufFile:
    """Metadata and tensors of one file. Raises:
    ModelError when the file is damaged, before any tensor is used.
    """

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        reader = _Reader(file)
        if reader.take(4) != _MAGIC:
            raise reader.damaged("is not a GGUF file")
        version = reader.scalar("<I")
        if version not in _VERSIONS:
            raise reader.damaged(f"is GGUF of version {version}; 2 and 3, little-endian, can be read")
        num_tensors = reader.count("tensors", 24)
        num_keys = reader.count("keys", 13)
        self.metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = reader.string()
            if key in self.metadata:
                raise reader.damaged(f"has the key {key[:120]!r} twice")
            self.metadata[key] = reader.value()
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
            raise reader.damaged(f"has the alignment {str(alignment)[:40]}")
        entries = [self._entry(reader) for _ in range(num_tensors)]
        data_start = -(-reader.position // alignment) * alignment
        self.tensors: dict[str, GgufTensor] = {}
        end = data_start
        for name, kind, shape, offset, num_bytes in sorted(entries, key=lambda entry: entry[3]):
            start = data_start + offset
            if name in self.tensors:
                raise reader.damaged(f"has the tensor {name[:120]!r} twice")
            if start < end or start + num_bytes > file.size or offset % alignment:
                raise ModelError(
                    file.path,
                    f"tensor {name[:120]!r} needs {num_bytes:,} bytes at {start:,}; "
                    f"the file has {file.size:,}, and what is before it ends at {end:,}",
                    way_out="fetch the file again",
                )
            end = start + num_bytes
            self.tensors[name] = GgufTensor(kind, shape, start, num_bytes)

    @staticmethod
    def _entry(reader: _Reader) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int, int]:
        name = reader.string()
        num_dimensions = reader.scalar("<I")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise reader.damaged(f"tensor {name[:120]!r} has {num_dimensions:,} dimensions")
        shape = tuple(reader.scalar("<Q") for _ in range(num_dimensions))[::-1]
        number, offset = reader.scalar("<I"), reader.scalar("<Q")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError as error:
            raise reader.damaged(f"tensor {name[:120]!r} has the unknown type {number:,}") from error
        block, width = GGML_QUANT_SIZES[kind]
        if not all(1 <= size < 2**40 for size in shape) or shape[-1] % block:
            raise reader.damaged(f"tensor {name[:120]!r} has the impossible shape {shape} for {kind.name}")
        return name, kind, shape, offset, math.prod(shape) // block * width

    def rows(self, name: str) -> np.ndarray:
        """Raw blocks of a tensor: (rows, bytes per row) uint8, a view of the file."""
        tensor = self.tensors[name]
        num_rows = math.prod(tensor.shape[:-1])
        view = memoryview(self.file.memory)[tensor.start : tensor.start + tensor.num_bytes]
        return np.frombuffer(view, dtype=np.uint8).reshape(num_rows, -1)

    def values(self, name: str, rows: np.ndarray) -> Tensor:
        """Raw rows of a tensor as numbers: float32 in the tensor's shape. Raises: ModelError for unknown
        types."""
        tensor = self.tensors[name]
        try:
            return values_of(rows, tensor.type).reshape(tensor.shape)
        except NotImplementedError as error:
            problem = f"tensor {name!r} has type {tensor.type.name}"
            raise ModelError(self.file.path, problem, way_out="use another quantisation") from error
