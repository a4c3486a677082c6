"""The files of a task family: examples to teach, and a held-out task.

In: a family, numbers of rows, a seed.  Out: `orders.jsonl` (messages) and `orders.task.jsonl`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from tuition.core.durable import write_durably
from tuition.core.errors import SettingsError
from tuition.evals.task_file import Header, task_text
from tuition.evals.tasks.table import family_of, make_family


@dataclass(frozen=True)
class FamilyFiles:
    """What was written."""

    teaching: Path
    task: Path


def write_family(folder: Path, name: str, *, rows: int, heldout: int, seed: int) -> FamilyFiles:
    """Write both files, which share no template and no entity. Raises: SettingsError."""
    family = family_of(name)
    taught = make_family(name, rows, seed, "train")
    asked = make_family(name, heldout, seed, "heldout")
    header = Header(
        task=name, kind=family.kind, form="chat", system=family.system, max_tokens=family.max_tokens
    )
    items = [{"id": str(i), "prompt": row.user, "target": row.target} for i, row in enumerate(asked, 1)]
    files = FamilyFiles(folder / f"{name}.jsonl", folder / f"{name}.task.jsonl")
    lines = [json.dumps({"messages": row.messages}, ensure_ascii=False) + "\n" for row in taught]
    try:
        write_durably(files.teaching, "".join(lines))
        write_durably(files.task, task_text(header, items))
    except OSError as error:
        wanted = f"a folder that can be written ({error.strerror})"
        raise SettingsError("out", got=str(folder), wanted=wanted) from error
    return files
