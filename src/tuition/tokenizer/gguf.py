"""A tokenizer from the metadata of a GGUF file.

In: the file's key-value pairs, as Python values.  Out: `Tokenizer`. Two kinds are known: `gpt2` (byte-level
BPE, cut as `pretokenizers` says) and `llama` (SentencePiece BPE with scores).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from tuition.core.errors import ModelError
from tuition.tokenizer.ends import END_TOKENS
from tuition.tokenizer.folder import DEFAULT_TEMPLATE, FolderSettings
from tuition.tokenizer.pretokenizers import ARCHITECTURE_DEFAULTS, PRE_TOKENIZERS, PreTokenizer
from tuition.tokenizer.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Token types. Source: llama.cpp, include/llama.h, `llama_token_type`."""

_SENTENCEPIECE_BOS, _SENTENCEPIECE_EOS = 1, 2
"""What llama.cpp takes where a file of this kind names none."""


def gguf_tokenizer(metadata: Mapping[str, Any], origin: str = "GGUF file") -> Tokenizer:
    """Build the tokenizer that a GGUF file describes. Raises: ModelError."""
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _texts(metadata, "tokenizer.ggml.tokens", origin)
    types = list(metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ModelError(
            origin, f"has {len(tokens):,} tokens and {len(types):,} token types", way_out="download it again"
        )
    if metadata.get("tokenizer.ggml.suppress_tokens"):
        raise ModelError(
            origin,
            "names tokens that must never be drawn (tokenizer.ggml.suppress_tokens)",
            way_out="these are not supported; use another model",
        )
    if kind not in ("gpt2", "llama"):
        raise ModelError(origin, f"its tokenizer is of kind {kind!r}", way_out="known kinds: gpt2, llama")
    try:
        core = (
            _byte_level(metadata, tokens, origin)
            if kind == "gpt2"
            else _sentencepiece(metadata, tokens, types, origin)
        )
        core.add_tokens(_added(tokens, types))
    except ModelError:
        raise
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic inside of the library is no Exception
        raise ModelError(
            origin, f"its tokenizer is damaged ({str(error)[:200]})", way_out="download it again"
        ) from None
    if core.get_vocab_size(with_added_tokens=True) != len(tokens):
        raise ModelError(origin, "its list of tokens has the same text twice", way_out="download it again")
    return Tokenizer(core, _settings(metadata, kind, tokens, origin), origin=origin)


def gguf_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name."""
    begin = "tokenizer.chat_template"
    named = {DEFAULT_TEMPLATE: metadata.get(begin)}
    named |= {
        key.removeprefix(f"{begin}."): text for key, text in metadata.items() if key.startswith(f"{begin}.")
    }
    return {name: text for name, text in named.items() if isinstance(text, str)}


def _added(tokens: Sequence[str], types: Sequence[int]) -> list[AddedToken]:
    """Tokens that are found in a text before anything else is done with it. Ends of a turn are special
    whatever the file says, as in llama.cpp."""
    return [
        AddedToken(token, special=token_type != USER_DEFINED or token in END_TOKENS, normalized=False)
        for token, token_type in zip(tokens, types, strict=True)
        if token_type in (CONTROL, USER_DEFINED, UNKNOWN) or token in END_TOKENS
    ]


def _settings(metadata: Mapping[str, Any], kind: str, tokens: Sequence[str], origin: str) -> FolderSettings:
    def token_id(name: str, default: int | None = None) -> int | None:
        """As in llama.cpp, an id outside of the vocabulary counts as none."""
        value = metadata.get(f"tokenizer.ggml.{name}_token_id")
        ids = [i for i in (value, default) if type(i) is int and 0 <= i < len(tokens)]
        return ids[0] if ids else None

    is_sentencepiece = kind == "llama"
    bos_id = token_id("bos", _SENTENCEPIECE_BOS if is_sentencepiece else None)
    ends = [
        token_id("eos", _SENTENCEPIECE_EOS if is_sentencepiece else None),
        token_id("eot"),
        token_id("eom"),
    ]
    eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
    adds_bos = is_sentencepiece or _pre_tokenizer(metadata, origin).adds_bos
    templates = gguf_templates(metadata)
    return FolderSettings(
        bos_token=tokens[bos_id] if bos_id is not None else None,
        eos_token=tokens[eos_ids[0]] if eos_ids else None,
        eos_ids=eos_ids,
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", adds_bos)),
        chat_template=templates.pop(DEFAULT_TEMPLATE, None),
        named_templates=templates,
    )


def _pre_tokenizer(metadata: Mapping[str, Any], origin: str) -> PreTokenizer:
    """The row that the file names, else that of its architecture. Raises: ModelError."""
    architecture = str(metadata.get("general.architecture", ""))
    name = metadata.get("tokenizer.ggml.pre") or ARCHITECTURE_DEFAULTS.get(architecture, "default")
    if name not in PRE_TOKENIZERS:
        raise ModelError(
            origin,
            f"its pre-tokenizer {str(name)[:60]!r} is not known",
            way_out=f"known: {', '.join(PRE_TOKENIZERS)}",
        )
    return PRE_TOKENIZERS[name]


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str], origin: str) -> tokenizers.Tokenizer:
    row = _pre_tokenizer(metadata, origin)
    merges: list[Any] = [
        tuple(merge.split(" ")) for merge in _texts(metadata, "tokenizer.ggml.merges", origin)
    ]
    if set(map(len, merges)) - {2} or any("" in merge for merge in merges):
        wrong = next(" ".join(merge) for merge in merges if len(merge) != 2 or "" in merge)
        raise ModelError(origin, f"has a merge {wrong[:60]!r}", way_out="download it again")
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=row.ignores_merges))
    core.pre_tokenizer = row.build()
    core.decoder = decoders.ByteLevel()
    return core


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], origin: str
) -> tokenizers.Tokenizer:
    """SentencePiece BPE as tokenizers does it: merges are read off the vocabulary, the best score first."""
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise ModelError(origin, "has no score for every token", way_out="download it again")
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    mergeable = {
        t for t, token_type in zip(tokens, types, strict=True) if token_type in (NORMAL, USER_DEFINED, UNUSED)
    }
    merges = []
    for token, token_type, score in zip(tokens, types, scores, strict=True):
        if token_type != NORMAL:
            continue
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in mergeable and pair[1] in mergeable]
        known.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        merges += [(-float(score), -len(left), -len(right), left, right) for left, right in known]
    merges.sort(key=lambda merge: merge[:3])
    unknown = next((t for t, token_type in zip(tokens, types, strict=True) if token_type == UNKNOWN), None)
    core = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[(left, right) for *_, left, right in merges],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefixed = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    steps: list[Any] = [normalizers.Prepend("▁")] if prefixed else []
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    ends: list[Any] = [decoders.Strip(" ", 1, 0)] if prefixed else []
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    return core


def _texts(metadata: Mapping[str, Any], key: str, origin: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, Sequence) or isinstance(values, str) or not set(map(type, values)) <= {str}:
        raise ModelError(
            origin,
            f"holds no list of texts under {key}",
            way_out="use a file that contains a gpt2 or llama tokenizer",
        )
    return list(values)
