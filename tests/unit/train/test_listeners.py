"""Listeners write what happened, and nothing twice after a resume."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboardX.event_file_writer import EventsWriter

from tuition.core.records import StepRecord, Window
from tuition.train.listeners import JsonLog, TensorBoardLog, mfu, open_log, units_per_second

RECORD = StepRecord(1, 2.5, 0.5, 0.01, 100, 6_000, Window(0, 2_000_000_000, 7, "modelled", 9), 0.1)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_utilisation_and_speed_of_a_step() -> None:
    assert mfu(RECORD, 10_000.0) == pytest.approx(0.3)
    assert units_per_second(RECORD) == 50.0
    still = replace(RECORD, window=replace(RECORD.window, wall_ns=0))
    assert mfu(still, 10_000.0) is None
    assert units_per_second(still) is None


def test_a_line_per_step_with_its_cost_and_null_for_what_is_not_a_number(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log.jsonl", 10_000.0)
    log.step(RECORD)
    log.step(replace(RECORD, step=2, loss=math.nan))
    log.close()
    first, second = read(tmp_path / "log.jsonl")
    assert (first["kind"], first["loss"], first["cost_nusd"], first["mfu"]) == ("step", 2.5, 9, 0.3)
    assert second["loss"] is None


def test_a_resume_cuts_away_steps_that_are_made_again_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = JsonLog(path, 1.0)
    for step in (1, 2, 3, 4):
        log.step(replace(RECORD, step=step))
    log.close()
    path.write_text(path.read_text() + '{"kind": "st')
    log = JsonLog(path, 1.0, first_step=2)
    log.step(replace(RECORD, step=3))
    log.close()
    assert [line["step"] for line in read(path)] == [1, 2, 3]


class NearlyFull:
    """A file on a disk with room for so many bytes more; None: enough."""

    room: int | None = None

    def open(self, path: Path) -> "NearlyFull":
        self.file = open_log(path)
        return self

    def write(self, line: bytes) -> int:
        taken = self.file.write(line if self.room is None else line[: self.room])
        if self.room is not None:
            self.room -= taken
        if taken == 0:
            raise OSError(28, "No space left on device")
        return taken

    def close(self) -> None:
        self.file.close()


def test_a_line_that_a_full_disk_tears_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    file = NearlyFull()
    log = JsonLog(path, 1.0, open_file=file.open)
    log.event("a", step=1)
    for room in (9, 0, 3):
        file.room = room
        with pytest.raises(OSError, match="No space"):
            log.event("b", step=2)
    file.room = None
    log.event("c", step=3)
    log.event("d", step=4)
    log.close()
    whole = [
        line for line in path.read_text().splitlines() if line.startswith('{"kind": ') and line.endswith("}")
    ]
    assert [json.loads(line)["kind"] for line in whole] == ["a", "c", "d"]


def test_a_full_disk_ends_the_file_for_tensorboard_and_holds_nobody_up(tmp_path: Path) -> None:
    """The library's own writer would wait for ever, with the eleventh event, for a thread that died."""

    class Filling(EventsWriter):
        """Has room for its own first event."""

        num_events = 0

        def write_event(self, event: object) -> None:
            self.num_events += 1
            if self.num_events > 1:
                raise OSError(28, "No space left on device")
            super().write_event(event)

    board = TensorBoardLog(tmp_path, 1.0, "token", make_writer=Filling)
    with pytest.raises(OSError, match="No space"):
        board.step(RECORD)
    for _ in range(30):
        board.step(RECORD)
    board.close()


def test_tensorboard_gets_event_files(tmp_path: Path) -> None:
    board = TensorBoardLog(tmp_path, 1.0, "token")
    board.step(RECORD)
    board.event("heldout", 1, bits_per_byte=2.0, sample="text")
    board.close()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    content = events.read_bytes()
    assert b"train/loss" in content
    assert b"heldout/bits_per_byte" in content
    assert b"speed/tokens_per_second" in content
