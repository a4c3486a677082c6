"""What listens to a run from outside the loop: a log of JSON lines, and event files for TensorBoard.

In: step records and events.  Out: files in the run's folder. A listener never changes a run.
"""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from tuition.core.records import StepRecord


def mfu(record: StepRecord, peak_flops: float) -> float | None:
    """Model FLOPs utilisation of one step: its FLOPs over what the machine could have done; None without a
    time."""
    if record.window.wall_ns <= 0 or peak_flops <= 0:
        return None
    return record.flops / (record.window.wall_ns / 1e9) / peak_flops


def tokens_per_second(record: StepRecord) -> float | None:
    """Target tokens per second of one step; None without a time."""
    return record.num_tokens / (record.window.wall_ns / 1e9) if record.window.wall_ns > 0 else None


class JsonLog:
    """One JSON object per line, written at once. After a resume, lines of steps that are made again are cut
    away."""

    def __init__(self, path: Path, first_step: int = 0) -> None:
        if path.exists():
            _cut_after(path, first_step)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`

    def step(self, record: StepRecord, peak_flops: float) -> None:
        """One optimizer step."""
        values = asdict(record)
        window = values.pop("window")
        self.event("step", **values, **window, mfu=mfu(record, peak_flops))

    def event(self, kind: str, **values: Any) -> None:
        """Anything else that is worth a line; what is not a number becomes null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self._file.write(json.dumps({"kind": kind} | clean, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _cut_after(path: Path, step: int) -> None:
    """Keep the lines up to `step`; a last line that a crash tore is dropped too."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            at = json.loads(line).get("step", 0)
        except ValueError:
            continue
        if at <= step:
            kept.append(line)
    staged = path.with_suffix(".tmp")
    staged.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(staged, path)


class TensorBoardLog:
    """Event files that `tensorboard --logdir <run folder>` shows."""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        purge = first_step + 1 if first_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)

    def step(self, record: StepRecord, peak_flops: float) -> None:
        """One optimizer step."""
        values = {
            "train/loss": record.loss,
            "train/grad_norm": record.grad_norm,
            "train/lr": record.lr,
            "speed/tokens_per_second": tokens_per_second(record),
            "speed/mfu": mfu(record, peak_flops),
        }
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, record.step)

    def event(self, kind: str, step: int, **values: Any) -> None:
        """Numbers become curves, texts become cards."""
        for name, value in values.items():
            if isinstance(value, str):
                self._writer.add_text(f"{kind}/{name}", value, step)
            elif isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()
