"""What a GGUF file says besides tensors: the shape and the tokenizer, under the keys that llama.cpp reads.

In: a shape and a tokenizer.  Out: a plain dictionary; the writer gives each value its type.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from tuition.core.errors import ModelError
from tuition.model.families import Family
from tuition.model.gguf_shape import FACTOR_KEYS, LLAMA3_KEYS, PATTERN, UNROTATED_STEP, fixed_scale
from tuition.model.rope import longrope_attention_factor, yarn_attention_factor
from tuition.spec.shape import ModelShape
from tuition.tokenizer.pretokenizers import PRE_TOKENIZERS
from tuition.tokenizer.tokenizer import Tokenizer

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""Token types. Source: llama.cpp, include/llama.h."""
_PREFERRED = ("smollm", "qwen2", "llama-bpe", "gpt-2")
"""Of pre-tokenizers that cut alike, the name that most runtimes know."""
_PROBE = (
    "The year 2026, isn't it? It's 3.14159 or 1,000,000!  Two  spaces,\ttabs\tand\n\nnew\r\nlines \n \n"
    "    def f(x): return x**2 # café naïve Ünïcödé 東京 привет 👩‍🚀 'LL'll WE'VE we've {}[]<>…— end  "
)
"""Text in which the known ways of cutting differ: digits, contractions, spaces, line ends, scripts."""


def shape_metadata(shape: ModelShape, family: Family) -> dict[str, Any]:
    """Keys of the network. Raises: ModelError for what llama.cpp would compute differently, or not at all."""
    architecture = family.gguf_architecture
    _refuse_other_computation(shape, family)
    keys: dict[str, Any] = {
        "block_count": shape.num_layers,
        "context_length": shape.rope.full_context or shape.context_length,
        "embedding_length": shape.hidden_size,
        "feed_forward_length": shape.mlp_size,
        "attention.head_count": shape.num_heads,
        "attention.head_count_kv": shape.num_kv_heads,
        "vocab_size": shape.vocab_size,
    }
    if shape.norm == "layer":
        keys["attention.layer_norm_epsilon"] = float(shape.norm_eps)
    else:
        keys["attention.layer_norm_rms_epsilon"] = float(shape.norm_eps)
    if shape.positions == "rotary":
        keys |= {
            "attention.key_length": shape.head_dim,
            "attention.value_length": shape.head_dim,
            "rope.dimension_count": shape.rope.rotary_dim or shape.head_dim,
            "rope.freq_base": float(shape.rope.theta),
            **_rope_keys(shape),
        }
    keys |= {FACTOR_KEYS[name]: float(getattr(shape, name)) for name in family.factors}
    if family.attention_scale == "attention_multiplier":
        keys["attention.scale"] = float(shape.attention_scale or shape.head_dim**-0.5)
    if family.windows == "pattern" and shape.local_rope is not None:
        keys["rope.freq_base_swa"] = float(shape.local_rope.theta)
        if shape.window_layers:
            keys["attention.sliding_window"] = shape.sliding_window
    metadata = {f"{architecture}.{key}": value for key, value in keys.items()}
    if family.windows == "every layer" and architecture == "phi3":
        metadata["phi3.attention.sliding_window"] = 0  # how its converter says that there is none
    if shape.rope.kind == "llama3":  # llama.cpp reads the table of factors; these are for our own reader
        metadata |= {key: getattr(shape.rope, name) for name, key in LLAMA3_KEYS.items()}
    return metadata


def _refuse_other_computation(shape: ModelShape, family: Family) -> None:
    """Raises: ModelError for what llama.cpp would compute differently, or not at all."""
    architecture = family.gguf_architecture
    sees_less = shape.window_layers and (shape.sliding_window or 0) < shape.context_length
    if sees_less and family.windows != "pattern":
        raise _refused("sliding windows", "llama.cpp ignores them for this architecture")
    every = range(shape.num_layers)
    if sees_less and shape.window_layers != tuple(i for i in every if (i + 1) % PATTERN):
        raise _refused("windows in these layers", f"llama.cpp has them in all but every {PATTERN}th")
    if family.unrotated and shape.unrotated_layers != tuple(every[UNROTATED_STEP - 1 :: UNROTATED_STEP]):
        raise _refused("positions in these layers", f"llama.cpp leaves out every {UNROTATED_STEP}th")
    if shape.local_rope is not None and shape.local_rope.kind != "none":
        raise _refused("stretched positions of layers with windows", "llama.cpp has none")
    if family.attention_scale == "query_pre_attn_scalar" and shape.attention_scale != fixed_scale(shape):
        raise _refused("this query_pre_attn_scalar", f"llama.cpp takes that of the heads, {shape.head_dim}")
    if architecture in ("olmo2", "phi3") and shape.query_size != shape.hidden_size:
        raise _refused("heads of this width", f"llama.cpp wants {shape.hidden_size} for all of them")
    if shape.rope.kind == "llama3" and architecture not in ("llama", "granite", "smollm3"):
        raise _refused("llama3 rotary positions", f"llama.cpp has none for {architecture}")
    if shape.rope.kind == "yarn" and not shape.rope.truncate:
        raise _refused("yarn with exact bounds", "llama.cpp rounds them")
    if (shape.output_bias or shape.mlp_bias) and architecture not in ("llama", "granite", "gpt2"):
        raise _refused("these biases", f"llama.cpp has none for {architecture}")


def _rope_keys(shape: ModelShape) -> dict[str, Any]:
    rope = shape.rope
    if rope.kind == "longrope":
        return {
            "rope.scaling.original_context_length": rope.original_context,
            "rope.scaling.attn_factor": longrope_attention_factor(rope),
        }
    if rope.kind not in ("linear", "yarn"):
        return {}
    keys: dict[str, Any] = {"rope.scaling.type": rope.kind, "rope.scaling.factor": float(rope.factor)}
    if rope.kind == "yarn":
        keys["rope.scaling.original_context_length"] = rope.original_context
        keys["rope.scaling.yarn_beta_fast"] = float(rope.beta_fast)
        keys["rope.scaling.yarn_beta_slow"] = float(rope.beta_slow)
        own = 0.1 * math.log(rope.factor) + 1.0  # llama.cpp multiplies by this itself
        if not math.isclose(yarn_attention_factor(rope), own):
            keys["rope.scaling.attn_factor"] = yarn_attention_factor(rope) / own
    return keys


def tokenizer_metadata(tokenizer: Tokenizer, num_rows: int) -> dict[str, Any]:
    """Keys of the tokenizer; tokens without text fill up to the embedding's `num_rows`.

    The pre-tokenizer is found by trying: its name is written only if it cuts a difficult text as ours does.
    Raises: ModelError if none does, or if this is not a byte-level BPE.
    """
    table = json.loads(tokenizer.to_json())
    model = table.get("model", {})
    pieces = table.get("pre_tokenizer") or {}
    kinds = [pieces.get("type"), *(part.get("type") for part in pieces.get("pretokenizers", []))]
    if model.get("type") != "BPE" or "ByteLevel" not in kinds:
        raise _refused("this tokenizer", "only byte-level BPE can be written to GGUF so far")
    if (normalizer := table.get("normalizer")) is not None and normalizer.get("type") != "NFC":
        raise _refused("this tokenizer", f"llama.cpp has no normalizer {normalizer.get('type')}")
    tokens, types = _tokens(model["vocab"], table.get("added_tokens", []), num_rows)
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [
            merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]
        ],
        "tokenizer.ggml.add_bos_token": tokenizer.add_bos,
        "tokenizer.ggml.add_space_prefix": False,
    }
    if tokenizer.bos_id is not None:
        metadata["tokenizer.ggml.bos_token_id"] = tokenizer.bos_id
    for kind, token_id in zip(("eos", "eot", "eom"), tokenizer.eos_ids, strict=False):
        metadata[f"tokenizer.ggml.{kind}_token_id"] = token_id
    if tokenizer.chat is not None:
        metadata["tokenizer.chat_template"] = tokenizer.chat.source
        for name, text in tokenizer.named_templates.items():
            metadata[f"tokenizer.chat_template.{name}"] = text
    metadata["tokenizer.ggml.pre"] = _pre_tokenizer(tokenizer, bool(model.get("ignore_merges")))
    return metadata


def _tokens(
    vocab: Mapping[str, int], added: Sequence[Mapping[str, Any]], num_rows: int
) -> tuple[list[str], list[int]]:
    """Texts and types by id."""
    texts = {token_id: text for text, token_id in vocab.items()}
    types = dict.fromkeys(texts, _NORMAL)
    for token in added:
        texts[token["id"]] = token["content"]
        types[token["id"]] = _CONTROL if token.get("special") else _USER_DEFINED
    if max(texts) >= num_rows:
        problem = f"has the id {max(texts):,}, the embedding {num_rows:,} rows"
        raise ModelError("tokenizer", problem, way_out="use the tokenizer of this model")
    tokens = [texts.get(token_id, f"[PAD{token_id}]") for token_id in range(num_rows)]
    return tokens, [types.get(token_id, _UNUSED) for token_id in range(num_rows)]


def _pre_tokenizer(tokenizer: Tokenizer, ignores_merges: bool) -> str:
    """The name under which llama.cpp cuts as this tokenizer does. Ids would not do for the comparison: a
    small vocabulary hides what a large one shows."""
    wanted = tokenizers.Tokenizer.from_str(tokenizer.to_json()).pre_tokenizer.pre_tokenize_str(_PROBE)
    for name in dict.fromkeys((*_PREFERRED, *PRE_TOKENIZERS)):
        row = PRE_TOKENIZERS[name]
        if row.ignores_merges == ignores_merges and row.build().pre_tokenize_str(_PROBE) == wanted:
            return name
    raise _refused("this tokenizer", "it cuts text unlike every pre-tokenizer that llama.cpp knows")


def _refused(what: str, why: str) -> ModelError:
    return ModelError("GGUF export", f"cannot write {what}: {why}", way_out="use the Hugging Face folder")
