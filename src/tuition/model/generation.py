"""Sampling defaults of a model, for requests that do not set their own.

In: generation_config.json of a folder, or the metadata of a GGUF file.  Out: `GenerationDefaults`.
A request's own values always come first; what neither says is left to the engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuition.model.fields import Fields

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 10.0),
}
"""As `engine.request.Sampling` takes them."""

_GGUF_KEYS = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
"""Source: llama.cpp, src/llama-arch.cpp, LLM_KV_GENERAL_SAMPLING_*."""


@dataclass(frozen=True)
class GenerationDefaults:
    """Sampling defaults of one model. None: the model does not say."""

    temperature: float | None = None
    """0 takes the most likely token."""
    top_p: float | None = None
    top_k: int | None = None
    """0 keeps all tokens."""
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    origin: str = "the model names none"
    """Where they were read, for people."""

    def sampling(self) -> dict[str, float | int]:
        """What the model says, under the names of the fields of `engine.request.Sampling`."""
        return {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}

    def describe(self) -> str:
        """One line: the values and where they were read."""
        values = [f"{name} {value:g}" for name, value in self.sampling().items()]
        if self.max_new_tokens is not None:
            values.append(f"at most {self.max_new_tokens:,} tokens")
        return f"{', '.join(values) or 'no defaults'} ({self.origin})"


_LLAMA_CPP: dict[str, Any] = {
    "temperature": 0.8,
    "top_p": 0.95,
    "top_k": 40,
    "min_p": 0.05,
    "repetition_penalty": 1.0,
}
"""What llama.cpp takes for keys that a GGUF file lacks. Source: common/common.h, common_params_sampling."""

_PUBLISHED = {"smollm2": GenerationDefaults(temperature=0.2, top_p=0.9, origin="SmolLM2's model card")}
"""By `general.basename`: chat models whose publisher names defaults that their GGUF files lack.

Source: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
"""


def defaults_of_folder(table: Mapping[str, Any], path: Path) -> GenerationDefaults:
    """From the object in generation_config.json. `do_sample: false` means greedy, whatever else it says.

    Raises: ModelError for a value of a wrong type or out of range.
    """
    values: dict[str, Any] = _values(Fields(path, table), {name: name for name in _SAMPLING})
    if table.get("max_new_tokens") is not None:
        values["max_new_tokens"] = Fields(path, table).count("max_new_tokens")
    if not Fields(path, table).flag("do_sample", True):
        for name in ("top_p", "top_k", "min_p"):
            values.pop(name, None)
        values["temperature"] = 0.0
    return GenerationDefaults(**values, origin=path.name) if values else GenerationDefaults()


def defaults_of_gguf(metadata: Mapping[str, Any], path: Path) -> GenerationDefaults:
    """From the keys of a GGUF file; as in llama.cpp, its defaults stand for keys that the file lacks.

    Raises: ModelError for a value of a wrong type or out of range.
    """
    values = _values(Fields(path, metadata), _GGUF_KEYS)
    if values:
        others = [key for key in metadata if key.startswith("general.sampling.")]
        unused = sorted(set(others) - set(_GGUF_KEYS.values()))
        origin = "its general.sampling keys" + (f" (not used: {', '.join(unused)})" if unused else "")
        return GenerationDefaults(**(_LLAMA_CPP | values), origin=origin)
    if "tokenizer.chat_template" in metadata:
        published = _PUBLISHED.get(str(metadata.get("general.basename", "")).lower())
        if published is not None:
            return published
    return GenerationDefaults(**_LLAMA_CPP, origin="llama.cpp's defaults, since the file names none")


def _values(table: Fields, keys: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, key in keys.items():
        value = table.table.get(key)
        if value is None:
            continue
        if name == "top_k":
            if type(value) is not int or not -1 <= value < 1 << 20:
                raise table.fail(key, "a whole number; 0 or -1 keeps all tokens")
            found[name] = max(0, value)
            continue
        low, high = _RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise table.fail(key, f"a number from {low:g} to {high:g}")
        found[name] = float(value)
    return found
