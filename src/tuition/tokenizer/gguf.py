"""A tokenizer from the metadata of a GGUF file.

In: the file's key-value pairs, as Python values.  Out: `Tokenizer`. Two kinds are known: `gpt2` (byte-level
BPE) and `llama` (SentencePiece BPE with scores). Each pre-tokenizer is a row below.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from tuition.core.errors import ModelError
from tuition.tokenizer.folder import FolderSettings
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import SPLIT

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Token types. Source: llama.cpp, include/llama.h, `llama_token_type`."""

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Source: Llama-3's tokenizer.json."""

_SPLITS: dict[str, tuple[str | None, bool]] = {
    "gpt-2": (None, False),
    "gpt2": (None, False),
    "smollm": (None, True),
    "starcoder": (None, True),
    "refact": (None, True),
    "command-r": (None, True),
    "llama-bpe": (_LLAMA3, False),
    "llama3": (_LLAMA3, False),
    "llama-v3": (_LLAMA3, False),
    "qwen2": (SPLIT, False),
}
"""By `tokenizer.ggml.pre`: the pattern (None: GPT-2's own), and whether digits are split off one by one
first.

Source: llama.cpp, src/llama-vocab.cpp, and the tokenizer.json of each family.
"""


def gguf_tokenizer(metadata: Mapping[str, Any], origin: str = "GGUF file") -> Tokenizer:
    """Build the tokenizer that a GGUF file describes. Raises: ModelError."""
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _texts(metadata, "tokenizer.ggml.tokens", origin)
    types = list(metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ModelError(
            origin, f"has {len(tokens):,} tokens and {len(types):,} token types", way_out="download it again"
        )
    if kind not in ("gpt2", "llama"):
        raise ModelError(origin, f"its tokenizer is of kind {kind!r}", way_out="known kinds: gpt2, llama")
    try:
        core = (
            _byte_level(metadata, tokens, origin)
            if kind == "gpt2"
            else _sentencepiece(metadata, tokens, types, origin)
        )
        for content, token_type in zip(tokens, types, strict=True):
            if token_type in (CONTROL, USER_DEFINED, UNKNOWN):
                added = AddedToken(content, special=token_type != USER_DEFINED, normalized=False)
                core.add_special_tokens([added]) if added.special else core.add_tokens([added])
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
    return Tokenizer(core, _settings(metadata, kind, len(tokens), tokens), origin=origin)


def _settings(metadata: Mapping[str, Any], kind: str, size: int, tokens: Sequence[str]) -> FolderSettings:
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    bos_id = metadata.get("tokenizer.ggml.bos_token_id")
    bos_id = int(bos_id) if bos_id is not None and 0 <= int(bos_id) < size else None
    eos_ids = tuple(dict.fromkeys(int(i) for i in ends if i is not None and 0 <= int(i) < size))
    template = metadata.get("tokenizer.chat_template")
    return FolderSettings(
        bos_token=tokens[bos_id] if bos_id is not None else None,
        eos_token=tokens[eos_ids[0]] if eos_ids else None,
        eos_ids=eos_ids,
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", kind == "llama")),
        chat_template=template if isinstance(template, str) else None,
    )


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str], origin: str) -> tokenizers.Tokenizer:
    name = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if name not in _SPLITS:
        raise ModelError(
            origin, f"its pre-tokenizer {name!r} is not known", way_out=f"known: {', '.join(_SPLITS)}"
        )
    pattern, single_digits = _SPLITS[name]
    merges: list[tuple[str, str]] = []
    for merge in _texts(metadata, "tokenizer.ggml.merges", origin):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise ModelError(origin, f"has a merge {merge[:60]!r}", way_out="download it again")
        merges.append((left, right))
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pattern == _LLAMA3))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if single_digits else []
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    core.pre_tokenizer = pre_tokenizers.Sequence(steps)
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
    if (
        not isinstance(values, Sequence)
        or isinstance(values, str)
        or not all(isinstance(v, str) for v in values)
    ):
        raise ModelError(
            origin, f"holds no list of texts under {key}", way_out="this file has no tokenizer we can read"
        )
    return list(values)
