"""What listens to a run from outside the loop: a log of JSON lines, and event files for TensorBoard.

In: step records, evaluations and events.  Out: files in the run's folder. A listener never changes a run; a
program can pass its own to `run_training`.
"""

import json
import math
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore[missing-module-attribute]
from tensorboardX.summary import scalar, text

from tuition.core.records import StepRecord
from tuition.train.probe import Probe

FLUSH_EVERY_S = 10.0
"""Between syncs of the event file: the library's flush waits for the disk."""


def mfu(record: StepRecord, peak_flops: float) -> float | None:
    """Model FLOPs utilisation of one step: its FLOPs over what the machine could have done; None without a
    time."""
    if record.window.wall_ns <= 0 or peak_flops <= 0:
        return None
    return record.flops / (record.window.wall_ns / 1e9) / peak_flops


def units_per_second(record: StepRecord) -> float | None:
    """Units per second of one step; None without a time."""
    return record.num_units / (record.window.wall_ns / 1e9) if record.window.wall_ns > 0 else None


class Listener(Protocol):
    """Receives all events of a run. What it cannot write is an OSError: the run says so once and
    goes on."""

    name: str
    """What is lost when it fails, for the message."""

    def step(self, record: StepRecord) -> None:
        """One optimizer step is done."""
        ...

    def evaluated(self, probe: Probe) -> None:
        """The model was evaluated."""
        ...

    def event(self, kind: str, step: int, **values: Any) -> None:
        """Something else happened: a checkpoint, a skipped step."""
        ...

    def close(self) -> None:
        """The run ends here."""
        ...


def open_log(path: Path) -> BinaryIO:
    """To write at the end, without a buffer."""
    return open(path, "ab", buffering=0)  # type: ignore[return-value]


class JsonLog:
    """One JSON object per line, written at once. After a resume, lines of steps that are made again are cut
    away. What cannot be written (OSError) is lost, and tears no other line."""

    name = "a line of the log"

    def __init__(
        self, path: Path, peak_flops: float, first_step: int = 0, open_file: Callable[[Path], Any] = open_log
    ) -> None:
        """`open_file` gives an unbuffered file of bytes at its end."""
        if path.exists():
            _cut_after(path, first_step)
        self._peak_flops = peak_flops
        self._file = open_file(path)
        self._is_torn = False

    def step(self, record: StepRecord) -> None:
        values = asdict(record)
        window = values.pop("window")
        self.event("step", **values, **window, mfu=mfu(record, self._peak_flops))

    def evaluated(self, probe: Probe) -> None:
        score = probe.score
        values = {_key(score.unit): score.value, "stderr": score.stderr, "num_items": score.num_items}
        samples = list(probe.samples)
        self.event("evaluation", probe.step, seconds=probe.seconds, samples=samples, **values)

    def event(self, kind: str, step: int, **values: Any) -> None:
        """NaN and infinity become null."""
        values = {"step": step} | values
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        line = (json.dumps({"kind": kind} | clean, ensure_ascii=False, allow_nan=False) + "\n").encode(
            "utf-8", "backslashreplace"
        )
        line = b"\n" + line if self._is_torn else line
        written = 0
        try:
            while written < len(line):  # a disk that is nearly full takes a part
                written += self._file.write(line[written:])
        finally:
            self._is_torn = 0 < written < len(line) or (self._is_torn and written == 0)

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


def _key(unit: str) -> str:
    """`bits per byte` as the name of a value."""
    return unit.replace(" ", "_")


class TensorBoardLog:
    """Event files that `tensorboard --logdir <run folder>` shows.

    Written in this thread: the library's own writer leaves that to another, which ends at a full disk and
    blocks the run for ever. After the first error (OSError) the file may end within an event, so
    nothing more is written to it.
    """

    name = "the file for TensorBoard (it ends here)"

    def __init__(
        self,
        folder: Path,
        peak_flops: float,
        unit: str,
        first_step: int = 0,
        make_writer: Callable[[str, str], EventsWriter] = EventsWriter,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._peak_flops, self._unit = peak_flops, unit
        self._events: EventsWriter | None = make_writer(str(folder / "events"), f".{secrets.token_hex(4)}")
        self._flushed_at = time.monotonic()
        if first_step:  # what an earlier process wrote after it is hidden
            self._write(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def step(self, record: StepRecord) -> None:
        values = {
            "train/loss": record.loss,
            "train/grad_norm": record.grad_norm,
            "train/lr": record.lr,
            f"speed/{self._unit}s_per_second": units_per_second(record),
            "speed/mfu": mfu(record, self._peak_flops),
        }
        self._write(
            *(_event(name, value, record.step) for name, value in values.items() if value is not None)
        )

    def evaluated(self, probe: Probe) -> None:
        """The score becomes a curve, samples become cards."""
        cards = {f"sample {index}": f"```\n{text}\n```" for index, text in enumerate(probe.samples)}
        self.event("heldout", probe.step, **{_key(probe.score.unit): probe.score.value}, **cards)

    def event(self, kind: str, step: int, **values: Any) -> None:
        """Numbers become curves, texts become cards."""
        self._write(*(_event(f"{kind}/{name}", value, step) for name, value in values.items()))

    def close(self) -> None:
        """Raises: OSError."""
        if self._events is not None:
            self._events.close()

    def _write(self, *events: Event | None) -> None:
        if self._events is None:
            return
        try:
            for event in events:
                if event is not None:
                    self._events.write_event(event)
            if time.monotonic() - self._flushed_at >= FLUSH_EVERY_S:
                self._events.flush()
                self._flushed_at = time.monotonic()
        except OSError:
            self._events = None
            raise


def _event(name: str, value: float | str, step: int) -> Event | None:
    """None for NaN and infinity."""
    if not isinstance(value, str) and not math.isfinite(value):
        return None
    summary = text(name, value) if isinstance(value, str) else scalar(name, value)
    return Event(wall_time=time.time(), step=step, summary=summary)
