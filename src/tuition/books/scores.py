"""Scores of models as rows of the table `evaluations`."""

import json
import time
from typing import Any

from sqlalchemy import Connection, RowMapping, insert

from tuition.books.journal import note_stored
from tuition.books.schema import evaluations
from tuition.core.records import Score


def write_score(connection: Connection, model: str, version: int | None, score: Score) -> None:
    """Record a score now."""
    details = {"method": score.method, "num_bytes": score.num_bytes, "num_tokens": score.num_tokens}
    row = insert(evaluations).values(
        model=model,
        version=version,
        run_id=score.run_id,
        task=score.task,
        corpus_digest=score.data_digest,
        mean=score.value,
        stderr=score.stderr,
        num_items=score.num_items or 0,
        unit=score.unit,
        created_unix_ns=time.time_ns(),
        details_json=json.dumps(details),
    )
    key = connection.execute(row.returning(evaluations.c.id)).scalar_one()
    note_stored(connection, evaluations, key)


def score_of(row: RowMapping) -> Score:
    """The score in a row of `evaluations`."""
    details: dict[str, Any] = json.loads(row["details_json"])
    is_old = "method" not in details  # then num_items counts bytes
    return Score(
        task=row["task"],
        value=row["mean"],
        stderr=row["stderr"],
        unit=row["unit"],
        method=details.get("method", ""),
        num_items=None if is_old else row["num_items"] or None,
        num_bytes=row["num_items"] if is_old else details["num_bytes"],
        num_tokens=details.get("num_tokens"),
        data_digest=row["corpus_digest"],
        run_id=row["run_id"],
        created_unix_ns=row["created_unix_ns"],
    )
