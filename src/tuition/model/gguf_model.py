"""A GGUF file as a model: its metadata as a shape, its tensors under our names and in our row order.

Files of architecture `llama` interleave the two halves of each query and key head, because llama.cpp turns
neighbouring pairs; rows are put back here. Other architectures keep the order of Hugging Face.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tuition.core.errors import ModelError, ShapeError
from tuition.model.families import FAMILIES, Family, choose_family
from tuition.model.fields import MAX_LAYERS, Fields
from tuition.model.gguf_file import GgufFile
from tuition.model.gguf_keys import check_keys
from tuition.model.names import gguf_name
from tuition.model.rope import rope_frequencies
from tuition.spec.shape import ModelShape, RopeShape

_FREQUENCY_FACTORS = "rope_freqs.weight"
_LLAMA3_ORIGINAL_CONTEXT = 8_192
LLAMA3_KEYS = {
    name: f"tuition.rope.{name}"
    for name in ("factor", "original_context", "low_freq_factor", "high_freq_factor")
}
"""Field of `RopeShape` -> the key under which our own files name it."""
_DEFAULT_THETA = 10_000.0


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
        self.shape = self._shape()
        self._check_tensors()
        self.family = self._family()

    def quantised_rows(self, name: str) -> QuantisedRows:
        """The raw blocks of a tensor under our name, for runners that compute with them."""
        return QuantisedRows(self.type_of(name), self.ordered_rows(name))

    def type_of(self, name: str) -> str:
        """The type of a tensor under our name, named as in ggml."""
        return self.file.tensors[gguf_name(name)].type.name

    @property
    def types(self) -> str:
        """For people: the types of its matrices, the most frequent first."""
        matrices = [name for name, size in self.shape.tensor_shapes().items() if len(size) > 1]
        names = [self.file.tensors[gguf_name(name)].type.name for name in matrices]
        return "/".join(sorted(set(names), key=lambda name: (-names.count(name), name)))

    def ordered_rows(self, name: str) -> np.ndarray:
        """Raw blocks of a tensor under our name, (rows, bytes per row) uint8, in our order."""
        rows = self.file.rows(gguf_name(name))
        is_query, is_key = ".attention.query." in name, ".attention.key." in name
        if self.architecture != "llama" or not (is_query or is_key):
            return rows
        heads = self.shape.num_heads if is_query else self.shape.num_kv_heads
        if name.endswith(".bias"):  # one row of plain numbers: order the numbers
            width = rows.shape[1] // (heads * self.shape.head_dim)
            return unpermute(rows.reshape(-1, width), heads).reshape(1, -1)
        return unpermute(rows, heads)

    def _refused(self, problem: str, way_out: str) -> ModelError:
        return ModelError(self.path, problem, way_out=way_out)

    def _shape(self) -> ModelShape:
        prefix = f"{self.architecture}."
        metadata, tensors = self.file.metadata, self.file.tensors
        table = Fields(self.path, {key.removeprefix(prefix): value for key, value in metadata.items()
                                   if key.startswith(prefix)})  # fmt: skip
        if metadata.get(prefix + "expert_count") not in (None, 0):
            raise self._refused("is a mixture of experts", "dense models are supported so far")
        embedding = tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise self._refused("has no token_embd.weight of two dimensions", "use the file of a whole model")
        hidden, heads = table.count("embedding_length"), table.count("attention.head_count")
        head_dim = table.count("attention.key_length", hidden // heads)
        for key in ("attention.value_length", "rope.dimension_count"):
            if table.count(key, head_dim) != head_dim:
                raise table.fail(key, f"the size of a head, {head_dim}")
        num_layers, context = table.count("block_count", most=MAX_LAYERS), table.count("context_length")
        window = table.optional_count("attention.sliding_window")
        if window is not None and self.architecture != "llama":
            raise table.fail("attention.sliding_window", "nothing there: it does not say in which layers")
        try:
            shape = ModelShape(
                vocab_size=embedding.shape[0],
                hidden_size=hidden,
                num_layers=num_layers,
                num_heads=heads,
                num_kv_heads=table.count("attention.head_count_kv", heads),
                head_dim=head_dim,
                mlp_size=table.count("feed_forward_length"),
                context_length=context,
                tied_head="output.weight" not in tensors,
                norm_eps=table.positive("attention.layer_norm_rms_epsilon"),
                rope=_rope(table, context),
                qk_norm="blk.0.attn_q_norm.weight" in tensors,
                qkv_bias="blk.0.attn_q.bias" in tensors,
                output_bias="blk.0.attn_output.bias" in tensors,
                mlp_bias="blk.0.ffn_down.bias" in tensors,
                sliding_window=window,
                window_layers=() if window is None else tuple(range(num_layers)),
            )
        except ShapeError as error:
            raise self._refused(str(error), "use another file") from error
        check_keys(table, head_dim)
        return replace(shape, rope=self._llama3_rope(shape)) if _FREQUENCY_FACTORS in tensors else shape

    def _llama3_rope(self, shape: ModelShape) -> RopeShape:
        """The llama3 parameters behind a file's table of frequency factors; refused if none are known to give
        it.

        Files of llama.cpp's converter hold only the table; files of ours name the parameters beside it.
        """
        entry = self.file.tensors[_FREQUENCY_FACTORS]
        if entry.type.name != "F32" or entry.shape != (shape.head_dim // 2,) or shape.rope.kind != "none":
            raise self._refused(f"{_FREQUENCY_FACTORS} does not fit the model", "use another file")
        factors = self.file.rows(_FREQUENCY_FACTORS).view(np.float32)[0]
        largest = float(factors.max())
        if not 1.0 <= largest < 1e6:
            raise self._refused(f"{_FREQUENCY_FACTORS} holds {largest}", "use another file")
        named = Fields(self.path, self.file.metadata)
        rope = RopeShape(
            theta=shape.rope.theta,
            kind="llama3",
            factor=named.positive(LLAMA3_KEYS["factor"], round(largest, 3)),
            original_context=named.count(LLAMA3_KEYS["original_context"], _LLAMA3_ORIGINAL_CONTEXT),
            low_freq_factor=named.positive(LLAMA3_KEYS["low_freq_factor"], 1.0),
            high_freq_factor=named.positive(LLAMA3_KEYS["high_freq_factor"], 4.0),
        )
        if rope.high_freq_factor <= rope.low_freq_factor:
            raise named.fail(LLAMA3_KEYS["high_freq_factor"], "a number above the low one")
        plain, _ = rope_frequencies(shape)
        stretched, _ = rope_frequencies(replace(shape, rope=rope))
        if not np.allclose(plain / stretched, factors, rtol=1e-3):
            raise self._refused(f"{_FREQUENCY_FACTORS} is no llama3 stretch that we know", "use the folder")
        return rope

    def _check_tensors(self) -> None:
        found = dict(self.file.tensors)
        found.pop(_FREQUENCY_FACTORS, None)
        for name, wanted in self.shape.tensor_shapes().items():
            entry = found.pop(gguf_name(name), None)
            if entry is None:
                raise self._refused(f"tensor {gguf_name(name)!r} is missing", "fetch the file again")
            if entry.shape != wanted:
                problem = f"tensor {gguf_name(name)!r} has shape {entry.shape}, the metadata say {wanted}"
                raise self._refused(problem, "fetch the file again")
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


def permute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of query or key heads from halves to neighbouring pairs, as llama.cpp wants them in `llama`
    files.
    """
    return rows.reshape(num_heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def unpermute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """The way back: from neighbouring pairs to halves."""
    return rows.reshape(num_heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def _rope(table: Fields, context: int) -> RopeShape:
    """As in llama.cpp: a factor without a kind stretches linearly, and one of 0 or 1 not at all."""
    theta = table.positive("rope.freq_base", _DEFAULT_THETA)
    kind = table.table.get("rope.scaling.type", "linear")
    factor = _rope_factor(table)
    if kind in ("none", "linear"):
        if table.optional_positive("rope.scaling.attn_factor") not in (None, 1.0):
            raise table.fail("rope.scaling.attn_factor", "1, or yarn as the kind of the stretch")
        stretched = kind == "linear" and factor != 1.0
        return RopeShape(theta=theta, kind="linear", factor=factor) if stretched else RopeShape(theta=theta)
    if kind != "yarn" or theta == 1.0:
        raise table.fail("rope.scaling.type", "none, linear or yarn")
    return RopeShape(
        theta=theta,
        kind="yarn",
        factor=factor,
        original_context=table.count("rope.scaling.original_context_length", context),
        beta_fast=table.positive("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=table.positive("rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=_yarn_attention(table, factor),
    )


def _rope_factor(table: Fields) -> float:
    """Under its name, else under the one that old files use."""
    for key in ("rope.scaling.factor", "rope.scale_linear"):
        if table.table.get(key) is not None:
            return 1.0 if table.table[key] == 0 else table.positive(key)
    return 1.0


def _yarn_attention(table: Fields, factor: float) -> float | None:
    """llama.cpp multiplies its own 0.1 ln(factor) + 1 by this; None where the file leaves it at that."""
    given = table.optional_positive("rope.scaling.yarn_attn_factor")
    given = given or table.optional_positive("rope.scaling.attn_factor")
    return None if given is None or given == 1.0 else given * (0.1 * float(np.log(factor)) + 1.0)
