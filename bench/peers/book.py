"""The results: rows of this run, earlier ones that it does not replace, and what follows from them.

In: rows and facts as they are measured.  Out: one JSON file, kept after each round, and lines of text.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peers import report, targets
from peers.install import PEERS, ROOT
from tuition.core.durable import write_json
from tuition.runtime.device import usable_cores
from tuition.spec.hardware import find_processor


class Book:
    """Rows of this run, and of earlier ones that it does not replace."""

    def __init__(self, arguments: argparse.Namespace, missing: dict[str, str]) -> None:
        self.path: Path = arguments.out
        try:
            self.old: dict[str, Any] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.old = {}
        self.rows: list[dict[str, Any]] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, str] = dict(missing)
        self.sitting = sitting(arguments)

    def add(self, where: dict[str, Any], rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
        self.rows += [{**where, **row, "sitting": self.sitting["started"]} for row in rows]
        if facts:
            self.facts[f"{where['model']} {where['precision']} {where['side']}"] = facts

    def refused(self, what: str, reason: str) -> None:
        self.failures[what] = reason

    def keep(self) -> None:
        """Write all that is known so far."""
        rows = self._all_rows()
        sittings = {s["started"]: s for s in self.old.get("sittings", [])} | {
            self.sitting["started"]: self.sitting
        }
        used = {row["sitting"] for row in rows}
        summaries, shares = report.summarise(rows), report.shares(rows)
        compared = report.ratios(summaries)
        write_json(
            self.path,
            {
                "targets": [verdict.named() for verdict in targets.judge(summaries, shares)],
                "measured_on": targets.where(self.sitting["machine"]),
                "summary": [s.named() | _ratio(compared.get((s.key, s.figure, s.side))) for s in summaries],
                "shares_of_limits": shares,
                "facts": self.old.get("facts", {}) | self.facts,
                "not_measured": self.failures,
                "sittings": [each for started, each in sorted(sittings.items()) if started in used],
                "rows": rows,
            },
        )

    def _all_rows(self) -> list[dict[str, Any]]:
        mine = {(report.key_of(row), row["side"]) for row in self.rows}
        old = self.old.get("rows", [])
        return [row for row in old if (report.key_of(row), row["side"]) not in mine] + self.rows

    def lines(self) -> list[str]:
        """The tables of this run: what was measured, the limits, the targets, and what could not be had."""
        bits = {tuple(name.split(" ", 2)): f["bits"] for name, f in self.facts.items() if "bits" in f}
        summaries, shares = report.summarise(self.rows), report.shares(self.rows)
        lines = report.table(summaries, bits)
        lines += [
            f"{share['model']} {share['precision']} {report.work([share.get(n) for n in report.KEY])}: "
            f"{share['share']:.0%} of the measured {share['of']}"
            for share in shares
        ]
        verdicts = targets.judge(summaries, shares)
        if any(verdict.measured is not None for verdict in verdicts):
            lines += ["", *targets.lines(verdicts, self.sitting["machine"])]
        lines += [f"not measured: {what}: {reason}" for what, reason in self.failures.items()]
        return lines


def _ratio(ratio: float | None) -> dict[str, float]:
    return {} if ratio is None else {"ours_is": ratio}


def sitting(arguments: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions and settings of this run."""
    processor = find_processor()
    commit = subprocess.run(("git", "rev-parse", "--short", "HEAD"), cwd=ROOT, capture_output=True, text=True,
                            check=False).stdout.strip()  # fmt: skip
    versions = {}
    for path in sorted(PEERS.glob("*/peer.json")):
        facts = json.loads(path.read_text())
        versions[path.parent.name] = {k: facts[k] for k in ("version", "builds", "tiles") if k in facts}
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor.name, "instructions": processor.isa, "cores": sorted(arguments.cores),
            "threads": len(arguments.cores), "usable_cores": usable_cores(),
            "memory_bytes": processor.memory_bytes, "virtual": processor.virtual,
            "kernel": platform.release(), "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), "commit": commit, **versions},
        "settings": {
            "set": "targets" if arguments.targets else "chosen", "rounds": arguments.rounds,
            "batches": arguments.batches, "prompt": arguments.prompt, "generate": arguments.generate,
            "prefill": arguments.prefill, "chunks": arguments.chunks,
        },
    }  # fmt: skip
