"""Which files of a repository on the Hugging Face hub make a model.

In: a reference, and the names in the repository.  Out: the names to download: weights, tokenizer and
settings, never code and never pickles.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tuition.core.errors import ModelError, SettingsError

PREFIX = "hf:"
FORM = "hf:ORG/NAME, hf:ORG/NAME@REVISION or, for one of several GGUF files, hf:ORG/NAME:FILE"
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_REFERENCE = re.compile(rf"hf:({_PART}/{_PART})(?::([^@\s]{{1,200}}))?(?:@([A-Za-z0-9_./-]{{1,200}}))?")
_SETTINGS = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json",
    "merges.txt",
}  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SPLIT = re.compile(r"(.*)-\d{5}-of-\d{5}\.gguf")
_MOST_LISTED = 8


@dataclass(frozen=True)
class HubReference:
    """A model on the hub."""

    repository: str
    """`ORG/NAME`"""
    revision: str | None
    """A branch, a tag or a commit; None: the main branch."""
    file: str | None
    """Part of the name of a GGUF file."""

    def __str__(self) -> str:
        file = "" if self.file is None else f":{self.file}"
        return f"{PREFIX}{self.repository}{file}" + ("" if self.revision is None else f"@{self.revision}")


def parse_hub(text: str) -> HubReference | None:
    """The parts of `hf:ORG/NAME[:FILE][@REVISION]`; None for text that does not begin with `hf:`.
    Raises: SettingsError for text that begins so and has another form."""
    if not text.startswith(PREFIX):
        return None
    match = _REFERENCE.fullmatch(text)
    if match is None or ".." in text or "--" in match[1]:
        raise SettingsError("model", got=text[:200], wanted=FORM)
    return HubReference(match[1], match[3], match[2])


def choose_files(reference: HubReference, names: Sequence[str]) -> list[str]:
    """What to download, in the order of the names. Raises: ModelError where there is no model that can be
    used, or which of several is not said."""
    root = sorted(name for name in names if "/" not in name and not name.startswith("."))
    tensors = [name for name in root if name.endswith(".safetensors")]
    ggufs = [name for name in names if name.lower().endswith(".gguf") and "mmproj" not in name.lower()]
    if "adapter_config.json" in root and not any(name.startswith("model") for name in tensors):
        raise ModelError(
            str(reference), "is an adapter and not a model",
            way_out="download it and its base, then: tuition models add NAME FOLDER",
        )  # fmt: skip
    if reference.file is None and tensors and "config.json" in root:
        of_model = [name for name in tensors if name.startswith("model")] or tensors
        kept = _SETTINGS | set(of_model) | {f"{name}.index.json" for name in ("model.safetensors",)}
        return [name for name in root if name in kept]
    if ggufs:
        return _one_gguf(reference, sorted(ggufs))
    if reference.file is not None:
        raise ModelError(str(reference), "has no GGUF file", way_out=f"leave out ':{reference.file}'")
    pickles = [name for name in root if name.endswith(_PICKLES)]
    problem = "has no weights in safetensors or GGUF"
    if pickles:
        problem += f", only {_listed(pickles)}: pickles, which can run code, are never read"
    raise ModelError(str(reference), problem, way_out="look for a repository with model.safetensors")


def _one_gguf(reference: HubReference, names: list[str]) -> list[str]:
    wanted = (reference.file or "").lower()
    exact = [name for name in names if name.lower() in (wanted, f"{wanted}.gguf")]
    found = exact or [name for name in names if wanted in name.lower()]
    models: dict[str, list[str]] = {}
    for name in found:
        split = _SPLIT.fullmatch(name)
        models.setdefault(name if split is None else split[1], []).append(name)
    if len(models) == 1:
        return next(iter(models.values()))
    if not found:
        problem, listed = f"has no GGUF file with {reference.file!r} in its name", names
    else:
        problem, listed = f"holds {len(models)} GGUF models", [each[0] for each in models.values()]
    raise ModelError(
        str(reference), f"{problem}: {_listed(listed)}",
        way_out=f"name one, as in {PREFIX}{reference.repository}:{listed[0].removesuffix('.gguf')}",
    )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_LISTED]) + (", ..." if len(names) > _MOST_LISTED else "")
