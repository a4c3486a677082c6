"""The bytes of each token, and text assembled from them without splitting a character.

In: a `tokenizers.Tokenizer`.  Out: `Pieces`, used by `Tokenizer.decode` and by every stream, so that the two
cannot differ.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import tokenizers

from tuition.core.errors import ModelError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LONGEST_UNFINISHED = 3
"""Bytes that a UTF-8 character may have without being whole."""
_CLEANUP = {
    " .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m", " do not": " don't",
    " 's": "'s", " 've": "'ve", " 're": "'re",
}  # fmt: skip
"""What a WordPiece decoder joins again (tokenizers, decoders/wordpiece.rs)."""


def byte_to_char() -> dict[int, str]:
    """The table of byte-level BPE: each byte as a printable character.

    Source: GPT-2, github.com/openai/gpt-2, src/encoder.py, `bytes_to_unicode`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + index) for index, byte in enumerate(others)}


_CHAR_TO_BYTE = {char: byte for byte, char in byte_to_char().items()}
_NO_BYTE = "\uffff"
_TO_LATIN_1 = {code: _NO_BYTE for code in range(256)} | {
    ord(char): chr(byte) for char, byte in _CHAR_TO_BYTE.items()
}
"""To characters whose number is the byte; those of the first 256 that stand for no byte cannot be encoded."""


@dataclass(frozen=True)
class Pieces:
    """What every id adds to a text. An id that the tokenizer does not know adds nothing."""

    table: tuple[bytes, ...]
    """By id."""
    special_ids: frozenset[int]
    """Ids that a reader should not see and a user cannot write."""
    first: Mapping[int, bytes]
    """Bytes of ids that read differently at the start of a text (no joining space); others are as in
    `table`."""
    strip_spaces: int = 0
    """Spaces dropped at the start of a text, where encoding has put them."""
    ends_of_words: frozenset[int] = frozenset()
    """Ids whose last byte is a space that is written only when another token follows."""

    @cached_property
    def shown(self) -> tuple[bytes, ...]:
        """The table without what a reader should not see."""
        return tuple(b"" if i in self.special_ids else piece for i, piece in enumerate(self.table))

    def of(self, token_id: int, at_start: bool) -> bytes:
        """Bytes of one id; nothing for ids outside of the table."""
        if at_start and token_id in self.first:
            return self.first[token_id]
        return self.table[token_id] if 0 <= token_id < len(self.table) else b""


class IncrementalDecoder:
    """Turns ids into text as they come. What `push` and `finish` return, joined, is what `Tokenizer.decode`
    returns.

    `after` are ids that come before, such as a prompt: the text of `after` and the text returned, joined,
    is the text of all ids. A character of several bytes is held back until it is whole; bytes that never
    become one read as U+FFFD.
    """

    def __init__(self, pieces: Pieces, skip_specials: bool = True, after: Sequence[int] = ()) -> None:
        self._pieces, self._skip = pieces, skip_specials
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._spaces_to_drop = pieces.strip_spaces
        self._space_due = b""
        self._skip_over(after)

    def push(self, token_id: int) -> str:
        """The text that is certain once `token_id` is known; may be empty."""
        return self._utf8.decode(self._bytes(token_id))

    def push_all(self, token_ids: Iterable[int]) -> str:
        """`push` for many ids."""
        if not self._at_start and not self._spaces_to_drop and not self._pieces.ends_of_words:
            table = self._pieces.shown if self._skip else self._pieces.table
            token_ids = list(token_ids)
            if token_ids and min(token_ids) >= 0 and max(token_ids) < len(table):
                return self._utf8.decode(b"".join(map(table.__getitem__, token_ids)))
        return self._utf8.decode(b"".join(map(self._bytes, token_ids)))

    def would_add(self, token_id: int) -> bytes:
        """The bytes of `token_id` if it came next; special tokens as they are written."""
        piece = self._space_due + self._within(token_id)
        return piece[min(self._spaces_to_drop, len(piece) - len(piece.lstrip(b" "))) :]

    def finish(self) -> str:
        """What was held back. The decoder then begins a new text."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._at_start, self._spaces_to_drop = True, self._pieces.strip_spaces
        self._space_due = b""
        return rest

    def _skip_over(self, token_ids: Sequence[int]) -> None:
        """Advance past `token_ids` without output. Only the start of the text and an unfinished character at
        the end affect what follows."""
        for token_id in token_ids:
            if not self._at_start and not self._spaces_to_drop and not self._pieces.ends_of_words:
                self._utf8.reset()
                self._utf8.decode(self._last_bytes(token_ids))
                return
            self.push(token_id)

    def _last_bytes(self, token_ids: Sequence[int]) -> bytes:
        """The end of what the ids add, as long as an unfinished character can be."""
        table, end = self._pieces.shown if self._skip else self._pieces.table, b""
        for token_id in reversed(token_ids):
            end = (table[token_id] if 0 <= token_id < len(table) else b"") + end
            if len(end) >= _LONGEST_UNFINISHED:
                break
        return end

    def _within(self, token_id: int) -> bytes:
        """The token's bytes without a space that waits for the next one."""
        piece = self._pieces.of(token_id, self._at_start)
        return piece[:-1] if token_id in self._pieces.ends_of_words else piece

    def _bytes(self, token_id: int) -> bytes:
        if self._skip and token_id in self._pieces.special_ids:
            return b""
        piece = self._space_due + self._within(token_id)
        self._at_start = False
        self._space_due = b" " if token_id in self._pieces.ends_of_words else b""
        while self._spaces_to_drop and piece:
            if not piece.startswith(b" "):
                self._spaces_to_drop = 0
            else:
                piece, self._spaces_to_drop = piece[1:], self._spaces_to_drop - 1
        return piece


def pieces_of(core: tokenizers.Tokenizer, vocab: Mapping[str, int], source: str) -> Pieces:
    """Work out the bytes of every token of `vocab`, added ones included, from the tokenizer's decoder.

    Raises: ModelError for a decoder that is not known here."""
    state = json.loads(core.decoder.__getstate__()) if core.decoder is not None else None
    steps = _steps(state)
    for step in steps:
        if step.get("type") not in _STEPS:
            raise ModelError(
                source,
                f"decoder {step.get('type')!r} is not known",
                way_out=f"known decoders: {', '.join(sorted(_STEPS))}",
            )
    added = core.get_added_tokens_decoder()
    size = 1 + max([*vocab.values(), *added], default=-1)
    table, first = [b""] * size, {}
    tokens = [token for token, token_id in vocab.items() if token_id not in added]
    if [step["type"] for step in steps] == ["ByteLevel"] and (pieces := _byte_pieces(tokens)) is not None:
        for token, piece in zip(tokens, pieces, strict=True):
            table[vocab[token]] = piece
        tokens = []
    ids = {token_id: token.content for token_id, token in added.items()}
    for token_id, token in ({vocab[token]: token for token in tokens} | ids).items():
        table[token_id], at_start = _token_bytes(token, steps)
        if token_id in added and not _is_utf8(table[token_id]):
            table[token_id] = at_start = token.encode()  # text that happens to read as bytes
        if at_start != table[token_id]:
            first[token_id] = at_start
    special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
    return Pieces(tuple(table), special_ids, first, _leading_spaces(steps), _ends_of_words(vocab, steps))


def _steps(state: dict[str, Any] | None) -> list[dict[str, Any]]:
    if state is None:
        return [{"type": "Spaced"}]  # without a decoder the library joins tokens by spaces
    if state.get("type") == "Sequence":
        return [step for part in state["decoders"] for step in _steps(part)]
    return [state]


def _leading_spaces(steps: list[dict[str, Any]]) -> int:
    """Spaces that the decoder drops at the start of the whole text."""
    fused = False
    for step in steps:
        kind = step["type"]
        fused = fused or kind == "Fuse"
        if kind == "Strip" and fused and step.get("content") == " ":
            return int(step.get("start", 0))
    return 0


def _ends_of_words(vocab: Mapping[str, int], steps: list[dict[str, Any]]) -> frozenset[int]:
    suffixes = [step.get("suffix", "</w>") for step in steps if step["type"] == "BPEDecoder"]
    return frozenset(i for token, i in vocab.items() for suffix in suffixes if token.endswith(suffix))


def _token_bytes(token: str, steps: list[dict[str, Any]]) -> tuple[bytes, bytes]:
    """The token's bytes inside a text, and at the start of one."""
    inside: str | bytes = token
    at_start: str | bytes = token
    fused = False
    for step in steps:
        fused = fused or step["type"] == "Fuse"
        if fused:
            continue  # what follows works on the whole text: see _leading_spaces
        apply = _STEPS[step["type"]]
        inside = apply(inside, step, False) if isinstance(inside, str) else inside
        at_start = apply(at_start, step, True) if isinstance(at_start, str) else at_start
    return tuple(p if isinstance(p, bytes) else p.encode("utf-8", "replace") for p in (inside, at_start))  # type: ignore[return-value]


def _is_utf8(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _byte_pieces(tokens: Sequence[str]) -> list[bytes] | None:
    """The bytes of tokens whose every character stands for one, all at once; None if some does not."""
    try:
        joined = "".join(tokens).translate(_TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:
        return None
    ends = list(accumulate(map(len, tokens)))
    return [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _byte_level(token: str, step: dict[str, Any], at_start: bool) -> str | bytes:
    mapped = [_CHAR_TO_BYTE.get(char) for char in token]
    return token if None in mapped else bytes(byte for byte in mapped if byte is not None)


def _byte_fallback(token: str, step: dict[str, Any], at_start: bool) -> str | bytes:
    match = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token


def _replace(token: str, step: dict[str, Any], at_start: bool) -> str:
    pattern = step.get("pattern", {})
    if "String" in pattern:
        return token.replace(pattern["String"], step["content"])
    raise ModelError(
        "tokenizer.json", "its decoder replaces by a regex", way_out="only plain strings are supported"
    )


def _strip(token: str, step: dict[str, Any], at_start: bool) -> str:
    for _ in range(int(step.get("start", 0))):
        token = token.removeprefix(step["content"])
    for _ in range(int(step.get("stop", 0))):
        token = token.removesuffix(step["content"])
    return token


def _metaspace(token: str, step: dict[str, Any], at_start: bool) -> str:
    is_dropped = at_start and step.get("prepend_scheme", "always") != "never"
    return token.replace(step.get("replacement", "▁"), "" if is_dropped else " ")


def _wordpiece(token: str, step: dict[str, Any], at_start: bool) -> str:
    prefix = step.get("prefix", "##")
    if not at_start:
        token = token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
    if step.get("cleanup", True):
        for spaced, joined in _CLEANUP.items():
            token = token.replace(spaced, joined)
    return token


def _bpe_suffix(token: str, step: dict[str, Any], at_start: bool) -> str:
    return token.replace(step.get("suffix", "</w>"), " ")


def _spaced(token: str, step: dict[str, Any], at_start: bool) -> str:
    return token if at_start else f" {token}"


def _whole(token: str, step: dict[str, Any], at_start: bool) -> str:
    return token


_STEPS: dict[str, Callable[[str, dict[str, Any], bool], str | bytes]] = {
    "ByteLevel": _byte_level,
    "ByteFallback": _byte_fallback,
    "Replace": _replace,
    "Strip": _strip,
    "Metaspace": _metaspace,
    "WordPiece": _wordpiece,
    "BPEDecoder": _bpe_suffix,
    "Spaced": _spaced,
    "Fuse": _whole,
}
