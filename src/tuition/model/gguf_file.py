"""Read a GGUF file, or the parts of a split one, with every bound checked: metadata, then a table of tensors,
then their bytes.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian; names of
parts as llama-gguf-split gives them.
In: a path, or `MappedFile`s.  Out: metadata as plain values, and rows of raw blocks; nothing is copied until
it is asked for.
"""

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuition.core.errors import ModelError
from tuition.model.gguf_types import BLOCK_TYPES, BlockType
from tuition.model.mapped import MappedFile

GGUF_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
            10: "<Q", 11: "<q", 12: "<d"}  # fmt: skip
"""Type number in the file -> how struct reads it."""
_STRING, _ARRAY = 8, 9
_MAX_ENTRIES = 2**24
"""Most keys, tensors, or elements of one list; the largest vocabularies are a hundred times smaller."""
_MAX_DIMENSIONS = 4
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies, and as what."""

    type: BlockType
    shape: tuple[int, ...]
    """(rows, columns) as in torch: the file lists dimensions the other way round."""
    start: int
    num_bytes: int
    file: MappedFile


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

    def strings(self, count: int) -> list[str]:
        """Many texts; a vocabulary and its merges are a hundred thousand, so nothing is called for each."""
        memory, position, size = self.file.memory, self.position, self.file.size
        unpack, texts = struct.Struct("<Q").unpack_from, list[bytes]()
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(memory, position)[0]
                if position > size:
                    raise struct.error
                texts.append(memory[start:position])
            self.position = position
            return [text.decode("utf-8") for text in texts]
        except struct.error as error:
            raise self.damaged(f"ends inside of a list of {count:,} texts") from error
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
            return self.strings(self.count("texts in a list", 8))
        if kind not in _SCALARS:
            raise self.damaged(f"has a list of the unknown type {kind}")
        format = _SCALARS[kind]
        width = struct.calcsize(format)
        count = self.count("numbers in a list", width)
        return np.frombuffer(self.take(count * width), dtype=format).tolist()


class GgufFile:
    """Metadata and tensors of one file, or of all parts of a split one. Raises: ModelError when a file is
    damaged, before any tensor is used.
    """

    def __init__(self, file: MappedFile, *others: MappedFile) -> None:
        self.path, self.files = file.path, (file, *others)
        self.metadata, self.tensors = _contents(file)
        for number, part in enumerate(others, start=1):
            metadata, tensors = _contents(part)
            if metadata.get("split.no") != number or tensors.keys() & self.tensors.keys():
                problem = f"is not part {number + 1} of the model that begins in {self.path.name}"
                raise ModelError(part.path, problem, way_out="fetch all parts of one model")
            self.tensors |= tensors
        count, wanted = self.metadata.get("split.count", 1) or 1, self.metadata.get("split.tensors.count")
        if count != len(self.files) or (count > 1 and wanted not in (None, len(self.tensors))):
            problem = f"is part of a model split into {count} files with {wanted} tensors; found "
            problem += f"{len(self.files)} with {len(self.tensors)}"
            way_out = "keep the names that llama-gguf-split gave them, and fetch all parts"
            raise ModelError(self.path, problem, way_out=way_out)

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def rows(self, name: str) -> np.ndarray:
        """Raw blocks of a tensor: (rows, bytes per row) uint8, a view of the file."""
        tensor = self.tensors[name]
        num_rows = math.prod(tensor.shape[:-1])
        view = memoryview(tensor.file.memory)[tensor.start : tensor.start + tensor.num_bytes]
        return np.frombuffer(view, dtype=np.uint8).reshape(num_rows, -1)


def open_gguf(path: Path) -> GgufFile:
    """The model that `path` is, or is a part of. Raises: ModelError, also for parts that are not there."""
    parts = parts_of(path)
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        problem = f"is one of {len(parts)} parts of a model; {', '.join(missing[:4])} is missing"
        raise ModelError(path, problem, way_out="fetch the other parts into the same folder")
    return GgufFile(*map(MappedFile, parts))


def parts_of(path: Path) -> list[Path]:
    """The files of the split model to which `path` belongs by its name, in order; else itself."""
    match = _PART.fullmatch(path.name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return [path]
    return [path.with_name(f"{match[1]}-{n:05d}-of-{match[3]}.gguf") for n in range(1, int(match[3]) + 1)]


def _contents(file: MappedFile) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """Metadata and tensors of one file."""
    reader = _Reader(file)
    if reader.take(4) != GGUF_MAGIC:
        raise reader.damaged("is not a GGUF file")
    version = reader.scalar("<I")
    if version not in _VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            raise ModelError(
                file.path, "is a big-endian GGUF file, made for another kind of processor",
                way_out="fetch the little-endian one, or convert it with gguf-convert-endian",
            )  # fmt: skip
        raise reader.damaged(f"is GGUF of version {version}; 2 and 3 can be read")
    num_tensors, num_keys = reader.count("tensors", 24), reader.count("keys", 13)
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = reader.string()
        if key in metadata:
            raise reader.damaged(f"has the key {key[:120]!r} twice")
        metadata[key] = reader.value()
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise reader.damaged(f"has the alignment {str(alignment)[:40]}")
    entries = [_entry(reader) for _ in range(num_tensors)]
    data_start = -(-reader.position // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    end = data_start
    for name, kind, shape, offset, num_bytes in sorted(entries, key=lambda entry: entry[3]):
        start = data_start + offset
        if name in tensors:
            raise reader.damaged(f"has the tensor {name[:120]!r} twice")
        if start < end or start + num_bytes > file.size or offset % alignment:
            raise ModelError(
                file.path,
                f"tensor {name[:120]!r} needs {num_bytes:,} bytes at {start:,}; "
                f"the file has {file.size:,}, and what is before it ends at {end:,}",
                way_out="fetch the file again",
            )
        end = start + num_bytes
        tensors[name] = GgufTensor(kind, shape, start, num_bytes, file)
    return metadata, tensors


def _entry(reader: _Reader) -> tuple[str, BlockType, tuple[int, ...], int, int]:
    name = reader.string()
    num_dimensions = reader.scalar("<I")
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise reader.damaged(f"tensor {name[:120]!r} has {num_dimensions:,} dimensions")
    shape = tuple(reader.scalar("<Q") for _ in range(num_dimensions))[::-1]
    number, offset = reader.scalar("<I"), reader.scalar("<Q")
    kind = BLOCK_TYPES.get(number)
    if kind is None:
        raise reader.damaged(f"tensor {name[:120]!r} has the unknown type {number:,}")
    if not all(1 <= size < 2**40 for size in shape) or shape[-1] % kind.size:
        raise reader.damaged(f"tensor {name[:120]!r} has the impossible shape {shape} for {kind.name}")
    return name, kind, shape, offset, math.prod(shape) // kind.size * kind.num_bytes
