"""Our tensor names beside those of Hugging Face folders and of GGUF files. One table;
the layer number is the rest.
"""

import re

_TABLE: tuple[tuple[str, str, str], ...] = (
    # ours, Hugging Face, GGUF; weight and bias alike
    ("embedding", "model.embed_tokens", "token_embd"),
    ("layers.{}.attention_norm", "model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    ("layers.{}.attention.query", "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    ("layers.{}.attention.key", "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    ("layers.{}.attention.value", "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    ("layers.{}.attention.output", "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    ("layers.{}.attention.query_norm", "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    ("layers.{}.attention.key_norm", "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
    ("layers.{}.mlp_norm", "model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    ("layers.{}.mlp.gate", "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    ("layers.{}.mlp.up", "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    ("layers.{}.mlp.down", "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    ("norm", "model.norm", "output_norm"),
    ("head", "lm_head", "output"),
)
_TO_HUGGING_FACE = {ours: theirs for ours, theirs, _ in _TABLE}
_TO_GGUF = {ours: theirs for ours, _, theirs in _TABLE}
_PARTS = re.compile(r"(?:layers\.(\d+)\.)?(.+)\.(weight|bias)")


def _translate(name: str, table: dict[str, str]) -> str:
    match = _PARTS.fullmatch(name)
    if match is None:
        raise KeyError(name)
    layer, stem, kind = match.groups()
    key = stem if layer is None else "layers.{}." + stem
    return f"{table[key].format(layer)}.{kind}"


def hugging_face_name(name: str) -> str:
    """`layers.3.mlp.up.weight` -> `model.layers.3.mlp.up_proj.weight`."""
    return _translate(name, _TO_HUGGING_FACE)


def gguf_name(name: str) -> str:
    """`layers.3.mlp.up.weight` -> `blk.3.ffn_up.weight`."""
    return _translate(name, _TO_GGUF)
