"""What the files beside tokenizer.json say: beginnings, ends, added tokens, the chat template.

In: a Hugging Face model folder.  Out: `FolderSettings`. Nothing from the folder is executed.
Where files contradict each other, this does as transformers does (tokenization_utils_base.py, 5.23).
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from tuition.core.errors import ModelError

_MAX_CONFIG_BYTES = 2**26
_POINTER = b"version https://git-lfs"
DEFAULT_TEMPLATE, TOOL_TEMPLATE = "default", "tool_use"
"""Names of templates in a model with several: the second shows conversations with tools."""
POINTER_HEAD = len(_POINTER)
"""Bytes at the beginning of a file that `is_pointer` needs."""


@dataclass(frozen=True)
class FolderSettings:
    """Settings of a tokenizer that are not in tokenizer.json. None: not said."""

    bos_token: str | None = None
    eos_token: str | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    """Every id that ends a text or a reply; the first is the end of a document."""
    end_tokens: tuple[str, ...] = ()
    """Further tokens that end a reply."""
    added: tuple[AddedToken, ...] = ()
    """Tokens declared in tokenizer_config.json with their flags, in the order in which they are added."""
    needed: tuple[AddedToken, ...] = ()
    """Tokens that are added after these, where tokenizer.json has no such added token."""
    add_bos: bool | None = None
    chat_template: str | None = None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    """Templates beside it, by the names that the model gives them: see `TOOL_TEMPLATE`."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else tokenizer_config.json had, kept for saving."""

    @property
    def templates(self) -> tuple[str, ...]:
        """Names of the chat templates, the default one first."""
        default = () if self.chat_template is None else (DEFAULT_TEMPLATE,)
        return (*default, *self.named_templates)

    def config(self, bos_token: str | None, eos_token: str | None, add_bos: bool) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        template: Any = self.chat_template
        if self.named_templates:
            every = {DEFAULT_TEMPLATE: template, **self.named_templates}
            template = [{"name": name, "template": text} for name, text in every.items()]
        named = {"bos_token": bos_token, "eos_token": eos_token, "chat_template": template}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **self.extra,
            "add_bos_token": add_bos,
            **{key: value for key, value in named.items() if value is not None},
        }


_KEPT = ("model_max_length", "pad_token", "unk_token", "padding_side", "add_prefix_space", "add_eos_token")


_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_folder_settings(folder: Path) -> FolderSettings:
    """Read tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json and
    chat_template.jinja.

    Raises: ModelError for a file that is there and cannot be read.
    """
    config = _read_json(folder / "tokenizer_config.json")
    special = _read_json(folder / "special_tokens_map.json")
    generation = _read_json(folder / "generation_config.json")
    model = _read_json(folder / "config.json")
    eos_tokens = [token for table in (config, special) if (token := _token(table.get("eos_token")))]
    ends = [*_ids(generation.get("eos_token_id")), *_ids(model.get("eos_token_id"))]
    bos_ids = [*_ids(generation.get("bos_token_id")), *_ids(model.get("bos_token_id"))]
    add_bos = config.get("add_bos_token")
    added, needed = _added_tokens(folder, config, special)
    templates = _chat_templates(folder, config)
    return FolderSettings(
        bos_token=_token(config["bos_token"] if "bos_token" in config else special.get("bos_token")),
        eos_token=eos_tokens[0] if eos_tokens else None,
        bos_id=bos_ids[0] if bos_ids and config.get("bos_token", "") is not None else None,
        eos_ids=tuple(dict.fromkeys(ends)),
        end_tokens=tuple(eos_tokens[1:]),
        added=added,
        needed=needed,
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=templates.pop(DEFAULT_TEMPLATE, None),
        named_templates=templates,
        extra={key: _plain(config[key]) for key in _KEPT if key in config},
    )


def _added_tokens(
    folder: Path, config: Mapping[str, Any], special: Mapping[str, Any]
) -> tuple[tuple[AddedToken, ...], tuple[AddedToken, ...]]:
    """Tokens of `added_tokens_decoder`; and, needed too, those of added_tokens.json where the config has no
    such list, and those that only have a role."""
    named: list[Any] = [config.get(role) or special.get(role) for role in _ROLES]
    for table in (config, special):
        for key in ("additional_special_tokens", "extra_special_tokens"):
            named += table[key] if isinstance(table.get(key), list) else []
    roles = {text: _added(value, is_special=True) for value in named if (text := _token(value))}
    by_id = config.get("added_tokens_decoder")
    if isinstance(by_id, Mapping):
        return _declared(folder, by_id, roles.keys()), tuple(roles.values())
    listed = {
        token_id: {"content": text} for text, token_id in _read_json(folder / "added_tokens.json").items()
    }
    tokens = _declared(folder, listed, roles.keys())
    return (), (*tokens, *roles.values())


def _declared(folder: Path, by_id: Mapping[Any, Any], special: Collection[str]) -> tuple[AddedToken, ...]:
    """Tokens in the order of their ids, which they get by being added in this order."""
    for token_id, value in by_id.items():
        if not str(token_id).isdecimal() or _token(value) is None:
            raise ModelError(
                folder,
                f"declares the added token {str(value)[:80]} with the id {str(token_id)[:40]!r}",
                way_out="correct tokenizer_config.json or added_tokens.json: wanted an id and a text",
            )
    ordered = sorted(by_id.items(), key=lambda item: int(item[0]))
    return tuple(_added(value, is_special=_token(value) in special) for _, value in ordered)


def _added(value: Any, is_special: bool) -> AddedToken:
    """A token as text or as an object with its flags."""
    flags = value if isinstance(value, Mapping) else {}
    special = is_special or flags.get("special") is True
    normalized = flags.get("normalized", not special) is True
    others = {name: flags.get(name) is True for name in ("single_word", "lstrip", "rstrip")}
    return AddedToken(_token(value) or "", special=special, normalized=normalized, **others)


def _chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """By name. A file of its own comes first, then the config: one text, or a list of named ones."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return {DEFAULT_TEMPLATE: read_text(path)}
    template = config.get("chat_template")
    if template is None and (legacy := folder / "chat_template.json").is_file():
        template = _read_json(legacy).get("chat_template")
    if template is None:
        return {}
    named: dict[Any, Any] = {DEFAULT_TEMPLATE: template}
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, Mapping)}
    if not all(isinstance(part, str) for pair in named.items() for part in pair):
        raise ModelError(
            folder, "its chat_template is neither a text nor a list of named texts",
            way_out="remove it, or write it as one text",
        )  # fmt: skip
    return named


def _token(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _plain(value: Any) -> Any:
    return _token(value) if isinstance(value, Mapping) else value


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool) and item >= 0]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            path, f"is not valid JSON ({str(error)[:200]})", way_out="download the model again"
        ) from None
    if not isinstance(value, dict):
        raise ModelError(path, "is not a JSON object", way_out="download the model again")
    return value


def read_text(path: Path, most_bytes: int = _MAX_CONFIG_BYTES) -> str:
    """A text file of a model folder. Raises: ModelError."""
    try:
        if path.stat().st_size > most_bytes:
            raise ModelError(path, f"is larger than {most_bytes:,} bytes", way_out="download the model again")
        content = path.read_bytes()
        if is_pointer(content):
            raise pointer_error(path)
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(path, f"cannot be read ({error})", way_out="download the model again") from error


def is_pointer(content: bytes) -> bool:
    """Whether a file begins as those do that Git LFS leaves in place of large ones."""
    return content.startswith(_POINTER)


def pointer_error(path: Path) -> ModelError:
    return ModelError(
        path, "is a Git LFS pointer and not the file itself", way_out="fetch the file with: git lfs pull"
    )
