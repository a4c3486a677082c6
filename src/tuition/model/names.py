"""Our tensors beside those in files: their names, and which of ours a file keeps joined or turned.

In: a `Layout` and a shape.  Out: where each of our tensors lies in a file, and what a file holds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tuition.spec.shape import ModelShape

_TABLE: tuple[tuple[str, str, str], ...] = (
    # ours, Hugging Face (as Llama has them), GGUF; weight and bias alike
    ("embedding", "model.embed_tokens", "token_embd"),
    ("positions", "model.embed_positions", "position_embd"),
    ("layers.{}.attention_norm", "model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    ("layers.{}.attention_post_norm", "model.layers.{}.post_self_attn_layernorm",
     "blk.{}.post_attention_norm"),
    ("layers.{}.attention.query", "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    ("layers.{}.attention.key", "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    ("layers.{}.attention.value", "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    ("layers.{}.attention.output", "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    ("layers.{}.attention.query_norm", "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    ("layers.{}.attention.key_norm", "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
    ("layers.{}.mlp_norm", "model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    ("layers.{}.mlp_post_norm", "model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"),
    ("layers.{}.mlp.gate", "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    ("layers.{}.mlp.up", "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    ("layers.{}.mlp.down", "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    ("norm", "model.norm", "output_norm"),
    ("head", "lm_head", "output"),
)  # fmt: skip
_PARTS = re.compile(r"(?:layers\.(\d+)\.)?(.+)\.(weight|bias)")


class Place(NamedTuple):
    """Where one of our tensors lies in a file."""

    name: str
    """Of the tensor in the file."""
    first: int
    """Its first output there."""
    count: int
    """Number of its outputs."""
    is_whole: bool
    """Whether the file's tensor holds nothing else."""
    is_turned: bool
    """Whether the file keeps the matrix as (in, out)."""


class StoredTensor(NamedTuple):
    """One tensor of a file."""

    parts: tuple[str, ...]
    """Ours, joined along the outputs in this order."""
    shape: tuple[int, ...]
    is_turned: bool


@dataclass(frozen=True)
class Layout:
    """How a kind of file keeps our tensors. Tensors of one name are joined, in the order of the network."""

    stems: Mapping[str, str]
    """Our name without number and ending -> theirs."""
    turned: bool = False
    """The matrices of the layers are (in, out), as GPT-2's Conv1D keeps them."""

    def changed(self, stems: Mapping[str, str], *, turned: bool = False) -> "Layout":
        """The same with other names for some tensors."""
        return Layout({**self.stems, **stems}, turned)

    def name(self, ours: str) -> str:
        """`layers.3.mlp.up.weight` -> `model.layers.3.mlp.up_proj.weight`."""
        match = _PARTS.fullmatch(ours)
        if match is None:
            raise KeyError(ours)
        layer, stem, kind = match.groups()
        key = stem if layer is None else "layers.{}." + stem
        return f"{self.stems[key].format(layer)}.{kind}"

    def stored(self, shape: ModelShape) -> dict[str, StoredTensor]:
        """What a file of a model of this shape holds, by their names."""
        sizes = shape.tensor_shapes()
        joined: dict[str, list[str]] = {}
        for ours in sizes:
            joined.setdefault(self.name(ours), []).append(ours)
        result = {}
        for theirs, parts in joined.items():
            rest = sizes[parts[0]][1:]
            size = (sum(sizes[part][0] for part in parts), *rest)
            is_turned = self.turned and bool(rest) and parts[0].startswith("layers.")
            result[theirs] = StoredTensor(tuple(parts), size[::-1] if is_turned else size, is_turned)
        return result

    def places(self, shape: ModelShape) -> dict[str, Place]:
        """Where each of our tensors lies, by our names."""
        sizes, result = shape.tensor_shapes(), {}
        for theirs, stored in self.stored(shape).items():
            first = 0
            for ours in stored.parts:
                count = sizes[ours][0]
                result[ours] = Place(theirs, first, count, len(stored.parts) == 1, stored.is_turned)
                first += count
        return result


FOLDER = Layout({ours: theirs for ours, theirs, _ in _TABLE})
"""Names in Hugging Face folders of Llama and the families that use its names:
`layers.3.mlp.up.weight` is `model.layers.3.mlp.up_proj.weight` there."""
GGUF = Layout({ours: theirs for ours, _, theirs in _TABLE})
"""Names in GGUF files of these families: `layers.3.mlp.up.weight` is `blk.3.ffn_up.weight` there."""
