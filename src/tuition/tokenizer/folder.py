"""What the files beside tokenizer.json say: beginnings, ends, the chat template.

In: a Hugging Face model folder.  Out: `FolderSettings`. Nothing from the folder is executed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuition.core.errors import ModelError

_MAX_CONFIG_BYTES = 2**26


@dataclass(frozen=True)
class FolderSettings:
    """Settings of a tokenizer that are not in tokenizer.json. None: not said."""

    bos_token: str | None = None
    eos_token: str | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    """Every id that ends a text or a reply; the first is the end of a document."""
    add_bos: bool | None = None
    chat_template: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else tokenizer_config.json had, kept for saving."""

    def config(self, bos_token: str | None, eos_token: str | None, add_bos: bool) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        named = {"bos_token": bos_token, "eos_token": eos_token, "chat_template": self.chat_template}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **self.extra,
            "add_bos_token": add_bos,
            **{key: value for key, value in named.items() if value is not None},
        }


_KEPT = ("model_max_length", "pad_token", "unk_token", "padding_side", "add_prefix_space", "add_eos_token")


def read_folder_settings(folder: Path) -> FolderSettings:
    """Read tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json and
    chat_template.jinja.

    Raises: ModelError for a file that is there and cannot be read.
    """
    config = _read_json(folder / "tokenizer_config.json")
    special = _read_json(folder / "special_tokens_map.json")
    generation = _read_json(folder / "generation_config.json")
    model = _read_json(folder / "config.json")
    ends = [*_ids(generation.get("eos_token_id")), *_ids(model.get("eos_token_id"))]
    bos_ids = [*_ids(generation.get("bos_token_id")), *_ids(model.get("bos_token_id"))]
    add_bos = config.get("add_bos_token")
    return FolderSettings(
        bos_token=_token(config["bos_token"] if "bos_token" in config else special.get("bos_token")),
        eos_token=_token(config.get("eos_token")) or _token(special.get("eos_token")),
        bos_id=bos_ids[0] if bos_ids and config.get("bos_token", "") is not None else None,
        eos_ids=tuple(dict.fromkeys(ends)),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=_chat_template(folder, config),
        extra={key: _plain(config[key]) for key in _KEPT if key in config},
    )


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """A file of its own comes first, then the config: one text, or a list of named ones, of which `default`
    is taken."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _read_text(path)
    template = config.get("chat_template")
    if template is None and (legacy := folder / "chat_template.json").is_file():
        template = _read_json(legacy).get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, Mapping)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise ModelError(folder, "its chat_template is no text", way_out="remove it, or write it as one text")
    return template


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
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            path, f"is no JSON ({str(error)[:200]})", way_out="download the model again"
        ) from None
    if not isinstance(value, dict):
        raise ModelError(path, "is no JSON object", way_out="download the model again")
    return value


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ModelError(
                path, f"is larger than {_MAX_CONFIG_BYTES:,} bytes", way_out="download the model again"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(path, f"cannot be read ({error})", way_out="download the model again") from error
