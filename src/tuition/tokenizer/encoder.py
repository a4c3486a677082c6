"""Encode text so that given tokens never result from it.

In: a tokenizer.json as text, and the tokens to withhold.  Out: `TextEncoder`.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from tuition.core.errors import ModelError, RequestError
from tuition.core.words import value_in_words


class TextEncoder:
    """Encodes texts. Special tokens are read as plain text, and the ids of `withheld` and `avoided`
    (content -> id) do not occur in the result.

    `avoided`: a single character that has no other id keeps it. `unknown`: the id that stands for
    characters without a token; it occurs although its token is withheld as text. `core` is changed to read
    special tokens as text when any token is withheld.
    """

    def __init__(
        self,
        core: tokenizers.Tokenizer,
        withheld: Mapping[str, int],
        avoided: Mapping[str, int] | None = None,
        *,
        unknown: int | None = None,
        origin: Path | str = "tokenizer",
    ) -> None:
        self._core, self._origin = core, origin
        self._withheld, self._never = {**withheld, **(avoided or {})}, frozenset(withheld.values())
        self._ids = frozenset(self._withheld.values()) - {unknown}
        core.encode_special_tokens = bool(self._withheld)

    def encode(self, text: str, continued: bool = False) -> list[int]:
        """Ids of a text. `continued`: it follows other text, so it gets no space where only a beginning has
        one. Raises: RequestError for what is no text, and for half surrogate pairs."""
        return self._encode(self._continued if continued else self._core, text)

    def encode_joined(self, text: str) -> list[int]:
        """`encode` for a text that goes on in the middle of another one, where no space may come before it.
        Raises: RequestError."""
        return self._encode(self._joined, text)

    def _encode(self, core: tokenizers.Tokenizer, text: str) -> list[int]:
        if not isinstance(text, str):
            raise RequestError("text", f"must be a text, got {value_in_words(text)}")
        try:
            ids = _encode(core, text)
        except (UnicodeEncodeError, TypeError):
            raise RequestError("text", "holds half of a surrogate pair, which is not text") from None
        return ids if self._ids.isdisjoint(ids) else self._in_halves(core, text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on all cores. Raises: RequestError."""
        try:
            if not all(isinstance(text, str) for text in texts):
                raise TypeError  # of two texts in a tuple the library would make one
            encodings = self._core.encode_batch_fast(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            return [self.encode(text) for text in texts]  # names the fault
        rows = [encoding.ids for encoding in encodings]
        return [
            ids if self._ids.isdisjoint(ids) else self._in_halves(self._core, text)
            for text, ids in zip(texts, rows, strict=True)
        ]

    @cached_property
    def _continued(self) -> tokenizers.Tokenizer:
        """Puts nothing before a text where the core does so only at the beginning of all."""
        return self._without_prefix({"first"})

    @cached_property
    def _joined(self) -> tokenizers.Tokenizer:
        """Puts nothing before a text."""
        return self._without_prefix({"first", "always"})

    def _without_prefix(self, schemes: Collection[str]) -> tokenizers.Tokenizer:
        state = json.loads(self._core.to_str())
        if not _never_prepend(state, schemes):
            return self._core
        core = parse_core(json.dumps(state), self._origin)
        core.encode_special_tokens = bool(self._withheld)
        return core

    def _in_halves(self, core: tokenizers.Tokenizer, text: str) -> list[int]:
        """For vocabularies that hold a withheld token's text as a piece: encode in halves until none
        appears."""
        ids = _encode(core, text)
        if self._ids.isdisjoint(ids):
            return ids
        if len(text) < 2:
            return [token_id for token_id in ids if token_id not in self._never]
        middle = self._middle_of_withheld(text)
        return self._in_halves(core, text[:middle]) + self._in_halves(self._continued, text[middle:])

    def _middle_of_withheld(self, text: str) -> int:
        for token in self._withheld:
            if len(token) > 1 and (begin := text.find(token)) >= 0:
                return begin + len(token) // 2
        return len(text) // 2


def parse_core(text: str, origin: Path | str) -> tokenizers.Tokenizer:
    """A tokenizer.json, without the padding and truncation that it may ask for. Raises: ModelError."""
    try:
        core = tokenizers.Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic inside of the library is no Exception
        raise ModelError(
            origin, f"is no tokenizer.json ({str(error)[:200]})", way_out="download the model again"
        ) from None
    core.no_padding()
    core.no_truncation()
    return core


def unknown_id(core: tokenizers.Tokenizer) -> int | None:
    """The id that the model gives to characters for which it has no token."""
    if not isinstance(core.model, tokenizers.models.Unigram):
        token = getattr(core.model, "unk_token", None)
        return None if token is None else core.token_to_id(token)
    return json.loads(core.to_str())["model"].get("unk_id")


def with_special(source: str, tokens: Collection[str]) -> str:
    """The tokenizer.json `source` in which these added tokens are special ones; ids stay as they are."""
    state = json.loads(source)
    for token in state.get("added_tokens", ()):
        token["special"] = token["special"] or token["content"] in tokens
    return json.dumps(state, ensure_ascii=False)


def may_shrink(source: str) -> int | None:
    """How many times shorter a text may be once the tokenizer.json `source` has normalized it.

    None where any number of bytes may become one token.
    """
    state = json.loads(source)
    normalizer, factor = state.get("normalizer"), 1
    for part in normalizer.get("normalizers", [normalizer]) if normalizer else []:
        if part["type"] == "NFC":
            factor = 3  # two or three code points become one
        elif part["type"] != "Prepend" and part != _SPACES:
            return None
    model = state["model"]
    is_whole = model.get("byte_fallback") or '"ByteLevel"' in json.dumps(state.get("pre_tokenizer"))
    absorbs = any(token["lstrip"] or token["rstrip"] for token in state.get("added_tokens", ()))
    return factor if model["type"] == "BPE" and is_whole and not absorbs else None


_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


def _never_prepend(state: dict[str, Any], schemes: Collection[str]) -> bool:
    """Switch off what a tokenizer.json puts before a text: a Metaspace of one of `schemes`; of "always", also
    what a normalizer or a ByteLevel prepends. True if there was something."""
    found = False
    for part in [*_parts(state.get("pre_tokenizer")), *_parts(state.get("normalizer"))]:
        if part["type"] == "Metaspace" and part.get("prepend_scheme") in schemes:
            part["prepend_scheme"], found = "never", True
        elif "always" not in schemes:
            continue
        elif part["type"] == "ByteLevel" and part.get("add_prefix_space"):
            part["add_prefix_space"], found = False, True
        elif part["type"] == "Prepend":
            part["prepend"], found = "", True
    return found


def _parts(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A pre-tokenizer or a normalizer, those in a sequence each."""
    if part is not None and part.get("type") == "Sequence":
        for inner in part.get("pretokenizers", part.get("normalizers", [])):
            yield from _parts(inner)
    elif part is not None:
        yield part


def _encode(core: tokenizers.Tokenizer, text: str) -> list[int]:
    """The ids of one text, as a batch of one: unlike `encode` it lets other threads run meanwhile, so that a
    server which reads a text of megabytes goes on answering."""
    return core.encode_batch_fast([text], add_special_tokens=False)[0].ids
