"""Where a model came from, as plain data that is stored with it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tuition.core.errors import ModelError

MANIFEST = "tuition.json"
_LONGEST_TEXT = 65_536


@dataclass(frozen=True)
class Lineage:
    """How a version was made. None: unknown, or not applicable (a downloaded model has no run)."""

    corpus_digest: str | None = None
    """SHA-256 of the prepared corpus."""
    tokenizer_digest: str | None = None
    settings: str | None = None
    """The resolved settings of the run, TOML."""
    first_weights: str | None = None
    """The first weights of training, random or induction: what `auto` in the settings became."""
    parent: str | None = None
    """`name@version` that training began from; of an adapter, its base."""
    parent_digest: str | None = None
    """Digest of the parent's weights."""
    kind: Literal["adapter"] | None = None
    """`adapter`: it is used together with its parent. None: a model."""
    recipe: str | None = None
    """The way it was trained, as in the table of recipes."""
    adapter: str | None = None
    """`name@version` of the adapter that it began from: merged into the parent, or taught further."""
    adapter_digest: str | None = None
    """Digest of that adapter."""
    run_id: str | None = None
    """The run in the books that paid for it: its bill."""
    evaluation: Mapping[str, Any] | None = None
    """Its score when it was published, such as bits per byte with the standard error."""
    source: str | None = None
    """For models that were added: the folder or file they were added from, or `hf:ORG/NAME@COMMIT`."""
    files: Mapping[str, str] | None = None
    """For models that were downloaded: SHA-256 of each file."""
    bill: Mapping[str, Any] | None = None
    """For models that were added: the cost of their training, from their `tuition.json`. The bill of a model
    that was taught here is in the books, under `run_id`."""

    def to_json(self) -> str:
        return json.dumps(
            {key: value for key, value in vars(self).items() if value is not None}, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str) -> "Lineage":
        """Keys that only a later version of tuition knows are left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in json.loads(text).items() if key in known})


def read_lineage(source: Path, digest: str) -> Lineage:
    """The lineage of a model that is added. A model made by tuition has lineage and bill in `tuition.json`
    and keeps them in another workspace; of other models only the source is known.

    `digest`: of the weights at `source`. Raises: ModelError when `tuition.json` cannot be read, or belongs to
    other weights.
    """
    manifest = source / MANIFEST
    if not manifest.is_file():
        return Lineage(source=str(source))
    try:
        table = json.loads(manifest.read_text(encoding="utf-8"))
        is_of_these = table["weights_digest"] == digest
        told, bill = table.get("lineage", {}), table.get("bill")
        found = replace(Lineage.from_json(json.dumps(told)), source=str(source), bill=bill)
        problem = _problem(found) if is_of_these else "belongs to other weights"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
    else:
        if problem is None:
            return found
    raise ModelError(manifest, problem, way_out="restore it, or remove it to add a model of unknown origin")


def _problem(lineage: Lineage) -> str | None:
    """What is wrong with a lineage from a file; None if nothing is."""
    for name, value in vars(lineage).items():
        if value is None:
            continue
        if name in ("evaluation", "bill", "files"):
            if not isinstance(value, dict):
                return f"has a lineage whose {name} is not a table"
        elif not isinstance(value, str) or len(value) > _LONGEST_TEXT or not _is_plain(value):
            return f"has a lineage whose {name} is not text that can be shown"
    if lineage.kind not in (None, "adapter"):
        return f"has a lineage of the unknown kind {lineage.kind!r}"
    bill = lineage.bill or {}
    for name in ("wall_ns", "energy_uj", "cost_nusd") if lineage.bill is not None else ():
        value = bill[name]
        is_unknown = value is None and name == "energy_uj"
        if not is_unknown and (type(value) is not int or value < 0):
            return f"has a bill whose {name} is {value!r}, wanted an integer from 0"
    return None


def _is_plain(text: str) -> bool:
    """No control characters, which a terminal would obey."""
    return all(letter.isprintable() or letter in "\n\t" for letter in text)
