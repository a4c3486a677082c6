"""Text to ids and back, for any tokenizer.json.

In: a model folder, a tokenizer.json, or a tokenizer built by `training` or `gguf`.  Out: `Tokenizer`.
Unless a caller asks for `specials="parse"`, special tokens in a text are encoded as plain text.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tokenizers

from tuition.core.durable import write_durably, write_json
from tuition.core.errors import ModelError, RequestError
from tuition.tokenizer.chat import REPLY_TOKENS, ChatTemplate, GuardedChat, Span
from tuition.tokenizer.encoder import TextEncoder, may_shrink, parse_core, unknown_id, with_special
from tuition.tokenizer.ends import known_ends
from tuition.tokenizer.folder import TOOL_TEMPLATE, FolderSettings, read_folder_settings, read_text
from tuition.tokenizer.pieces import IncrementalDecoder, Pieces, pieces_of

Specials = Literal["text", "parse"]

_MAX_FILE_BYTES = 2**28


class Tokenizer:
    """A tokenizer, the tokens that begin and end texts, and the chat template."""

    def __init__(
        self, core: tokenizers.Tokenizer, settings: FolderSettings, *, origin: Path | str = "tokenizer"
    ) -> None:
        self._settings, self._origin = settings, origin
        self._given = core.to_str() if core.padding or core.truncation else None
        core.no_padding()
        core.no_truncation()
        self._ids = core.get_vocab(with_added_tokens=True)
        self.pieces: Pieces = pieces_of(core, self._ids, str(origin))
        added = core.get_added_tokens_decoder()
        self._core, self._ordinary = core, _ids(added, special=False)
        self.bos_id: int | None = self._id_of(settings.bos_token, settings.bos_id)
        ends = [*settings.eos_ids, self._id_of(settings.eos_token, None)]
        ends += [self._id_of(token, None) for token in settings.end_tokens]
        ends += known_ends({token.content: token_id for token_id, token in added.items()})
        known = [i for i in ends if i is not None and 0 <= i < self.vocab_size]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(known))
        """Every id that ends a reply; the first is the end of a document."""
        unknown = unknown_id(core)  # some vocabularies use the end of a text for it: that is never written
        self._unknown = None if unknown in (*self.eos_ids, self.bos_id) else unknown
        self._text = TextEncoder(core, _ids(added, special=True), unknown=self._unknown, origin=origin)
        self.add_bos: bool = self._adds_bos(settings.add_bos)
        self.chat: ChatTemplate | None = self._template(settings.chat_template)
        tool_template = settings.named_templates.get(TOOL_TEMPLATE)
        self.tool_chat: ChatTemplate | None = self.chat and self._template(tool_template)
        """A template for conversations with tools, where the model has one beside the other."""

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
        settings = read_folder_settings(folder)
        core = parse_core(read_text(path, _MAX_FILE_BYTES), path)
        _add(core, settings)
        return cls(core, settings, origin=path)

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """From a tokenizer.json alone: no chat template, no marked beginnings or ends. Raises: ModelError."""
        return cls(parse_core(read_text(path, _MAX_FILE_BYTES), path), FolderSettings(), origin=path)

    @classmethod
    def from_json(cls, text: str, settings: FolderSettings | None = None) -> "Tokenizer":
        """From the text of a tokenizer.json. Raises: ModelError."""
        return cls(parse_core(text, "tokenizer.json"), settings or FolderSettings())

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
        return None if self.bos_id is None else self.token(self.bos_id)

    @property
    def eos_token(self) -> str | None:
        return self.token(self.eos_ids[0]) if self.eos_ids else None

    @property
    def named_templates(self) -> Mapping[str, str]:
        """Chat templates beside the first."""
        return self._settings.named_templates

    def template_for(self, template_kwargs: Mapping[str, Any] | None) -> ChatTemplate | None:
        """The template that shows a conversation with these variables, chosen as transformers does."""
        has_tools = (template_kwargs or {}).get("tools") is not None
        return self.tool_chat if has_tools and self.tool_chat is not None else self.chat

    def _template(self, source: str | None) -> ChatTemplate | None:
        if source is None:
            return None
        eos_token = self._settings.eos_token or self.eos_token
        bos_token = self._settings.bos_token or self.bos_token
        return ChatTemplate(source, bos_token, eos_token, origin=self._origin)

    @cached_property
    def _json(self) -> str:
        """The text of its tokenizer.json, made when it is first asked for."""
        return self._core.to_str() if self._given is None else self._given

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what turns text into ids, as 64 hex digits."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    @cached_property
    def text_digest(self) -> str:
        """SHA-256 of what turns texts and conversations into ids, as 64 hex digits."""
        templates = "".join(chat.source for chat in (self.chat, self.tool_chat) if chat is not None)
        return hashlib.sha256(f"{self.digest} {templates}".encode()).hexdigest()

    def to_json(self) -> str:
        """The text of its tokenizer.json."""
        return self._json

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name in tokenizer.json, as `<|im_end|>`."""
        return self._ids.get(token)

    def token(self, token_id: int) -> str | None:
        """The name of a token in tokenizer.json; None for ids outside of the vocabulary."""
        return self._core.id_to_token(token_id) if token_id >= 0 else None

    def encode(self, text: str, specials: Specials = "text", add_bos: bool | None = None) -> list[int]:
        """Ids of a text. `specials="parse"` turns special tokens in it into their ids; use it only
        for trusted text.

        `add_bos=None` does as the model's own settings say. Raises: RequestError for half surrogate pairs.
        """
        return self._with_bos(self._encoder(specials).encode(text), add_bos)

    def encode_batch(
        self, texts: Sequence[str], specials: Specials = "text", add_bos: bool | None = None
    ) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        return [self._with_bos(ids, add_bos) for ids in self._encoder(specials).encode_batch(texts)]

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

    @cached_property
    def longest_token(self) -> int | None:
        """Most bytes of a text that one id can stand for: a bound on what fits, known without encoding.

        None where a normalizer, an unknown token or an added token may stand for any number of bytes.
        """
        shrinks = may_shrink(self._json)
        return None if shrinks is None else shrinks * max(map(len, self.pieces.table), default=1)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a conversation, ready for a reply, or for the rest of its last message.
        Raises: RequestError for messages that cannot be shown, and where there is no template."""
        chat = self.guarded_chat(messages, template_kwargs)
        if continue_final_message:
            return self.encode_spans(chat.continued())
        return self.encode_spans(chat.spans([(len(messages), add_generation_prompt)])[0])

    def guarded_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> GuardedChat:
        """A conversation in which no message can write what marks turns. Raises: as `render_chat`."""
        chat = self.template_for(template_kwargs)
        if chat is None:
            raise RequestError("messages", "this model has no chat template; use plain completions")
        return chat.guarded(
            messages,
            [*self.special_tokens, *self._markup],
            reply_tokens=[token for token in REPLY_TOKENS if token in self._ordinary],
            template_kwargs=template_kwargs,
            now=now,
        )

    def encode_spans(self, spans: Iterable[Span], after: bool = False) -> list[int]:
        """Ids of a rendered conversation, or of a part that comes after others."""
        ids: list[int] = []
        for span in spans:
            after = after or bool(ids)
            ids += [self._ids[span.text]] if span.is_token else self._messages.encode(span.text, after)
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of a text of a message that goes on where another text ended."""
        return self._messages.encode_joined(text)

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The texts of `special_ids`."""
        return tuple(token for token_id in sorted(self.special_ids) if (token := self.token(token_id)))

    @cached_property
    def _markup(self) -> frozenset[str]:
        """Added tokens that are not marked as special but mark turns: those that the chat templates
        write, and those that end a reply. No message of a chat can produce them."""
        if self.chat is None:
            return frozenset()
        ends = frozenset(token for token, token_id in self._ordinary.items() if token_id in self.eos_ids)
        written = (chat.tokens_written(self._ordinary) for chat in (self.chat, self.tool_chat) if chat)
        return ends.union(*written)

    @cached_property
    def _messages(self) -> TextEncoder:
        """Encodes the text parts of a conversation."""
        if not self._markup:
            return self._text
        core = parse_core(with_special(self._json, self._markup), self._origin)
        special = {token: self._ids[token] for token in self.special_tokens}
        markup = {token: self._ids[token] for token in self._markup}
        return TextEncoder(core, special, markup, unknown=self._unknown, origin=self._origin)

    @cached_property
    def _parsing(self) -> TextEncoder:
        """Encodes every added token in a text as its id."""
        return TextEncoder(parse_core(self._json, self._origin), {}, origin=self._origin)

    def _encoder(self, specials: Specials) -> TextEncoder:
        return self._parsing if specials == "parse" else self._text

    def _with_bos(self, ids: list[int], add_bos: bool | None) -> list[int]:
        wanted = self.add_bos if add_bos is None else add_bos
        return [self.bos_id, *ids] if wanted and self.bos_id is not None else ids

    def _adds_bos(self, declared: bool | None) -> bool:
        if self.bos_id is None or declared is not None:
            return bool(declared) and self.bos_id is not None
        return self._core.encode("", add_special_tokens=True).ids[:1] == [self.bos_id]

    def _id_of(self, token: str | None, token_id: int | None) -> int | None:
        if token is not None and token in self._ids:
            return self._ids[token]
        return token_id if token_id is not None and 0 <= token_id < self.vocab_size else None


def _ids(added: Mapping[int, tokenizers.AddedToken], special: bool) -> dict[str, int]:
    """Added tokens of one kind: content -> id."""
    return {token.content: token_id for token_id, token in added.items() if token.special == special}


def _add(core: tokenizers.Tokenizer, settings: FolderSettings) -> None:
    """Add the tokens that are declared beside tokenizer.json, as transformers does."""
    found = {token.content: token for token in core.get_added_tokens_decoder().values()}
    core.add_tokens([token for token in settings.added if repr(found.get(token.content)) != repr(token)])
    present = {token.content for token in core.get_added_tokens_decoder().values()}
    core.add_tokens([token for token in settings.needed if token.content not in present])
