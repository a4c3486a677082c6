"""A GGUF file as a model: its tensors under our names and in our row order.

Files of some architectures (`llama` for one) interleave the two halves of each query and key head, because
llama.cpp turns neighbouring pairs; rows are put back here. Others keep the order of Hugging Face.
"""

from typing import NamedTuple

import numpy as np

from tuition.core.errors import ModelError, ShapeError
from tuition.model.families import FAMILIES, Family, choose_family
from tuition.model.gguf_file import GgufFile, GgufTensor
from tuition.model.gguf_shape import FREQUENCY_FACTORS, LONGROPE_FACTORS, read_shape
from tuition.model.names import GGUF, Layout, Place

_JOINED = "blk.{}.attn_qkv"
"""Where a file keeps queries, keys and values that it has no tensors of their own for."""


class QuantisedRows(NamedTuple):
    """A matrix as its file keeps it."""

    type: str
    """`Q4_1`, `Q8_0`, ...: the layout of a block, named as in ggml."""
    rows: np.ndarray
    """(rows, bytes per row) uint8, rows in our order."""


class GgufModel:
    """Shape and tensors of one file. Raises:
    ModelError for what is missing, damaged or cannot be computed.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file, self.path = file, file.path
        self.architecture = file.metadata.get("general.architecture")
        families = [family for family in FAMILIES if family.gguf_architecture == self.architecture]
        if not families:
            known = ", ".join(sorted({family.gguf_architecture for family in FAMILIES}))
            raise self._refused(f"has the architecture {str(self.architecture)[:60]!r}", f"known: {known}")
        self.is_permuted = families[0].permuted_in_gguf
        self.shape = read_shape(file, families[0])
        layout = _layout_in(file, families[0])
        self._places = layout.places(self.shape)
        self._check_tensors(layout)
        self.family = self._family()

    def quantised_rows(self, name: str) -> QuantisedRows:
        """The raw blocks of a tensor under our name, for runners that compute with them."""
        return QuantisedRows(self.entry(name).type.name, self.ordered_rows(name))

    def place(self, name: str) -> Place:
        """Where a tensor under our name lies."""
        return self._places[name]

    def entry(self, name: str) -> GgufTensor:
        """The file's tensor that holds ours."""
        return self.file.tensors[self._places[name].name]

    @property
    def types(self) -> str:
        """For people: the types of its matrices, the most frequent first."""
        matrices = [name for name, size in self.shape.tensor_shapes().items() if len(size) > 1]
        names = [self.entry(name).type.name for name in matrices]
        return "/".join(sorted(set(names), key=lambda name: (-names.count(name), name)))

    def ordered_rows(self, name: str) -> np.ndarray:
        """Raw blocks of a tensor under our name, (rows, bytes per row) uint8, in our order."""
        place, rows = self._places[name], self.file.rows(self._places[name].name)
        is_vector = name.endswith(".bias") or len(self.shape.tensor_shapes()[name]) == 1
        if is_vector:  # one row of plain numbers: order the numbers
            entry = self.entry(name)
            rows = rows.reshape(-1, entry.type.num_bytes)
        if not place.is_whole:
            rows = rows[place.first : place.first + place.count]
        is_query, is_key = ".attention.query." in name, ".attention.key." in name
        if self.is_permuted and (is_query or is_key):
            rows = unpermute(rows, self.shape.num_heads if is_query else self.shape.num_kv_heads)
        return rows.reshape(1, -1) if is_vector else rows

    def _refused(self, problem: str, way_out: str) -> ModelError:
        return ModelError(self.path, problem, way_out=way_out)

    def _check_tensors(self, layout: Layout) -> None:
        found = dict(self.file.tensors)
        for name in (FREQUENCY_FACTORS, *(LONGROPE_FACTORS.values() if self.shape.rope.long_factors else ())):
            found.pop(name, None)
        for name, wanted in layout.stored(self.shape).items():
            entry = found.pop(name, None)
            if entry is None:
                raise self._refused(f"tensor {name!r} is missing", "fetch the file again")
            if entry.shape != wanted.shape:
                problem = f"tensor {name!r} has shape {entry.shape}, the metadata say {wanted.shape}"
                raise self._refused(problem, "fetch the file again")
            if len(wanted.shape) == 1 and entry.type.size != 1:
                raise self._refused(f"tensor {name!r} is a vector in blocks", "fetch the file again")
        if found:
            first = sorted(found)[0]
            raise self._refused(
                f"{len(found)} tensors have no place in a {self.architecture} model, {first[:120]!r} for one",
                "use the file of a plain causal language model",
            )

    def _family(self) -> Family:
        """The row of this architecture that can express the shape."""
        try:
            return choose_family(self.shape, self.architecture)
        except ShapeError as error:
            raise self._refused(str(error), "use another file") from error


def _layout_in(file: GgufFile, family: Family) -> Layout:
    """How this file keeps its tensors: joined matrices may also be apart, and the other way round."""

    def stem(ours: str, usual: str) -> str:
        candidates = (usual, GGUF.stems[ours], *([_JOINED] if ".attention." in ours else []))
        found = (theirs for theirs in candidates if f"{theirs.format(0)}.weight" in file.tensors)
        return next(found, usual)

    joinable = ("attention.query", "attention.key", "attention.value", "mlp.gate")
    stems = family.gguf_layout.stems
    return family.gguf_layout.changed(
        {ours: stem(ours, stems[ours]) for part in joinable for ours in (f"layers.{{}}.{part}",)}
    )


def permute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of query or key heads from halves to neighbouring pairs, as llama.cpp wants them where it turns
    neighbours."""
    return rows.reshape(num_heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def unpermute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """The way back: from neighbouring pairs to halves."""
    return rows.reshape(num_heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
