"""Text to ids and back, for any tokenizer.json.

In: a model folder, a tokenizer.json, or one of our own making (`training`, `gguf`).  Out: `Tokenizer`.
Text is text: unless a caller asks for `specials="parse"`, no string that a user writes becomes a special
token.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tokenizers

from tuition.core.durable import write_durably, write_json
from tuition.core.errors import ModelError, RequestError
from tuition.tokenizer.chat import ChatTemplate
from tuition.tokenizer.folder import FolderSettings, read_folder_settings
from tuition.tokenizer.pieces import IncrementalDecoder, Pieces, pieces_of

Specials = Literal["text", "parse"]

_MAX_FILE_BYTES = 2**28


class Tokenizer:
    """A tokenizer with what a model needs to know about it: where texts begin and end, and how a chat is
    written."""

    def __init__(
        self, core: tokenizers.Tokenizer, settings: FolderSettings, *, origin: Path | str = "tokenizer"
    ) -> None:
        self._json = core.to_str()
        self._settings, self._origin = settings, origin
        core.no_padding()
        core.no_truncation()
        self._parsing = core
        self.pieces: Pieces = pieces_of(core, str(origin))
        self._ids = core.get_vocab(with_added_tokens=True)
        self.bos_id: int | None = self._id_of(settings.bos_token, settings.bos_id)
        ends = [*settings.eos_ids, self._id_of(settings.eos_token, None)]
        known = [i for i in ends if i is not None and 0 <= i < self.vocab_size]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(known))
        self.add_bos: bool = self._adds_bos(settings.add_bos)
        self.chat: ChatTemplate | None = None
        if settings.chat_template is not None:
            eos_token = settings.eos_token or (self._token_of(self.eos_ids[0]) if self.eos_ids else None)
            bos_token = settings.bos_token or (
                self._token_of(self.bos_id) if self.bos_id is not None else None
            )
            self.chat = ChatTemplate(settings.chat_template, bos_token, eos_token, origin=origin)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """From a model folder: tokenizer.json, and beside it what says where texts end. Raises:
        ModelError."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                folder,
                "holds no tokenizer.json",
                way_out="point at a folder that was saved with its tokenizer",
            )
        return cls(_read_core(path), read_folder_settings(folder), origin=path)

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """From a tokenizer.json alone: no chat template, no marked beginnings or ends. Raises: ModelError."""
        return cls(_read_core(path), FolderSettings(), origin=path)

    @classmethod
    def from_json(cls, text: str, settings: FolderSettings | None = None) -> "Tokenizer":
        """From the text of a tokenizer.json. Raises: ModelError."""
        return cls(_parse_core(text, "tokenizer.json"), settings or FolderSettings())

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers, vLLM and llama.cpp's converter
        read them.

        A generation_config.json is written only where there is none: it carries the ids that end a reply.
        """
        write_durably(folder / "tokenizer.json", self._json)
        write_json(
            folder / "tokenizer_config.json",
            self._settings.config(self.bos_token, self.eos_token, self.add_bos),
        )
        generation = {"bos_token_id": self.bos_id, "eos_token_id": list(self.eos_ids)}
        if self.eos_ids and not (folder / "generation_config.json").exists():
            write_json(
                folder / "generation_config.json", {k: v for k, v in generation.items() if v is not None}
            )

    @property
    def vocab_size(self) -> int:
        """The highest id and one."""
        return len(self.pieces.table)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that readers do not see and users cannot write."""
        return self.pieces.special_ids

    @property
    def bos_token(self) -> str | None:
        return None if self.bos_id is None else self._token_of(self.bos_id)

    @property
    def eos_token(self) -> str | None:
        return self._token_of(self.eos_ids[0]) if self.eos_ids else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what turns text into ids, as 64 hex digits."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    def to_json(self) -> str:
        """The text of its tokenizer.json."""
        return self._json

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name in tokenizer.json, as `<|im_end|>`."""
        return self._ids.get(token)

    def encode(self, text: str, specials: Specials = "text", add_bos: bool | None = None) -> list[int]:
        """Ids of a text. `specials="parse"` turns special tokens in it into their ids: only for text of our
        own.

        `add_bos=None` does as the model's own settings say. Raises: RequestError for half surrogate pairs.
        """
        ids = self._encode_one(text, specials, continued=False)
        return self._with_bos(ids, add_bos)

    def encode_batch(
        self, texts: Sequence[str], specials: Specials = "text", add_bos: bool | None = None
    ) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        core = self._parsing if specials == "parse" else self._plain
        try:
            if not all(isinstance(text, str) for text in texts):
                raise TypeError  # of two texts in a tuple the library would make one
            rows = [
                encoding.ids for encoding in core.encode_batch_fast(list(texts), add_special_tokens=False)
            ]
        except (UnicodeEncodeError, TypeError):
            rows = [self._encode_one(text, specials, continued=False) for text in texts]  # names the fault
        if specials == "text" and self.special_ids:
            rows = [
                self._encode_broken(text, False) if not self.special_ids.isdisjoint(ids) else ids
                for text, ids in zip(texts, rows, strict=True)
            ]
        return [self._with_bos(ids, add_bos) for ids in rows]

    def decode(self, ids: Iterable[int], skip_specials: bool = True) -> str:
        """The text of the ids; bytes that are no UTF-8 read as U+FFFD, ids outside of the vocabulary as
        nothing."""
        decoder = self.stream(skip_specials)
        return decoder.push_all(ids) + decoder.finish()

    def stream(self, skip_specials: bool = True, after: Sequence[int] = ()) -> IncrementalDecoder:
        """A decoder for ids that come one by one, as the continuation of `after`."""
        return IncrementalDecoder(self.pieces, skip_specials, after)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds inside of a text."""
        return self.pieces.of(token_id, at_start=False)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a conversation. Raises: RequestError for messages that cannot be shown, and where there is
        no template."""
        if self.chat is None:
            raise RequestError("messages", "this model has no chat template; use plain completions")
        spans = self.chat.render_spans(
            messages,
            self._special_tokens,
            add_generation_prompt=add_generation_prompt,
            template_kwargs=template_kwargs,
        )
        ids: list[int] = []
        for span in spans:
            ids += (
                [self._ids[span.text]] if span.is_special else self._encode_one(span.text, "text", bool(ids))
            )
        return ids

    @cached_property
    def _special_tokens(self) -> tuple[str, ...]:
        return tuple(t.content for t in self._parsing.get_added_tokens_decoder().values() if t.special)

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """Reads special tokens as the text they are written in."""
        core = _parse_core(self._json, self._origin)
        core.no_padding()
        core.no_truncation()
        core.encode_special_tokens = True
        return core

    @cached_property
    def _continued(self) -> tokenizers.Tokenizer:
        """As `_plain`, for text that follows other text: puts no space before it where only a beginning gets
        one."""
        state = json.loads(self._json)
        if not _never_prepend(state.get("pre_tokenizer")):
            return self._plain
        core = _parse_core(json.dumps(state), self._origin)
        core.no_padding()
        core.no_truncation()
        core.encode_special_tokens = True
        return core

    def _encode_one(self, text: str, specials: Specials, continued: bool) -> list[int]:
        core = self._parsing if specials == "parse" else self._continued if continued else self._plain
        if not isinstance(text, str):
            raise RequestError("text", f"must be a text, got {type(text).__name__}")
        try:
            ids = _encode(core, text)
        except (UnicodeEncodeError, TypeError):
            raise RequestError("text", "holds half of a surrogate pair, which is not text") from None
        if specials == "text" and not self.special_ids.isdisjoint(ids):
            return self._encode_broken(text, continued)
        return ids

    def _encode_broken(self, text: str, continued: bool) -> list[int]:
        """For vocabularies that hold a special token's text as a piece: encode in halves until none
        appears."""
        core = self._continued if continued else self._plain
        ids = _encode(core, text)
        if self.special_ids.isdisjoint(ids):
            return ids
        if len(text) < 2:
            return [token_id for token_id in ids if token_id not in self.special_ids]
        middle = self._middle_of_special(text)
        return self._encode_broken(text[:middle], continued) + self._encode_broken(text[middle:], True)

    def _middle_of_special(self, text: str) -> int:
        for token in self._special_tokens:
            if len(token) > 1 and (begin := text.find(token)) >= 0:
                return begin + len(token) // 2
        return len(text) // 2

    def _with_bos(self, ids: list[int], add_bos: bool | None) -> list[int]:
        wanted = self.add_bos if add_bos is None else add_bos
        return [self.bos_id, *ids] if wanted and self.bos_id is not None else ids

    def _adds_bos(self, declared: bool | None) -> bool:
        if self.bos_id is None or declared is not None:
            return bool(declared) and self.bos_id is not None
        return self._parsing.encode("", add_special_tokens=True).ids[:1] == [self.bos_id]

    def _id_of(self, token: str | None, token_id: int | None) -> int | None:
        if token is not None and token in self._ids:
            return self._ids[token]
        return token_id if token_id is not None and 0 <= token_id < self.vocab_size else None

    def _token_of(self, token_id: int) -> str | None:
        return self._parsing.id_to_token(token_id)


def _never_prepend(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Switch off what a Metaspace puts before the first word only. True if there was one."""
    if pre_tokenizer is None:
        return False
    if pre_tokenizer.get("type") == "Sequence":
        return any([_never_prepend(part) for part in pre_tokenizer.get("pretokenizers", [])])
    if pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("prepend_scheme") == "first":
        pre_tokenizer["prepend_scheme"] = "never"
        return True
    return False


def _read_core(path: Path) -> tokenizers.Tokenizer:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ModelError(
                path, f"is larger than {_MAX_FILE_BYTES:,} bytes", way_out="this is no tokenizer file"
            )
        return _parse_core(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(path, f"cannot be read ({error})", way_out="download the model again") from error


def _encode(core: tokenizers.Tokenizer, text: str) -> list[int]:
    """The ids of one text, as a batch of one: unlike `encode` it lets other threads run meanwhile, so that a
    server which reads a text of megabytes goes on answering."""
    return core.encode_batch_fast([text], add_special_tokens=False)[0].ids


def _parse_core(text: str, origin: Path | str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic inside of the library is no Exception
        raise ModelError(
            origin, f"is no tokenizer.json ({str(error)[:200]})", way_out="download the model again"
        ) from None
