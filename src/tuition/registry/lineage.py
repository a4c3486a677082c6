"""Where a model came from, as plain data that is stored with it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Lineage:
    """What made a version. None: unknown, or not so for this model (one that was downloaded has no run)."""

    corpus_digest: str | None = None
    """SHA-256 of the prepared corpus."""
    tokenizer_digest: str | None = None
    settings: str | None = None
    """The resolved settings of the run, TOML."""
    parent: str | None = None
    """`name@version` that training began from."""
    run_id: str | None = None
    """The run in the books that paid for it: its bill."""
    evaluation: Mapping[str, Any] | None = None
    """What was measured when it was published, such as bits per byte with its standard error."""
    source: str | None = None
    """For models of others: the folder or file they were added from."""

    def to_json(self) -> str:
        return json.dumps(
            {key: value for key, value in vars(self).items() if value is not None}, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str) -> "Lineage":
        """Keys of later versions of this program are left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in json.loads(text).items() if key in known})
