"""C5: a disk that is full for a while costs checkpoints and log lines, never the run."""

import json
from pathlib import Path

from sqlalchemy import select

from forge import Forge
from tuition.books.books import open_books
from tuition.books.schema import runs
from tuition.core.workspace import open_workspace
from tuition.ledger.reconciliation import reconcile
from tuition.runtime.checkpoints import load_latest

RUN = "from reliability.training import full_disk; full_disk.main()"


def test_a_full_disk_is_one_alarm_for_each_thing_and_the_run_ends_whole(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the rose of the king\n" * 400)
    root = tmp_path / "home"
    run = forge.start(RUN, [str(root), str(tmp_path / "text.txt")])
    out, errors = run.communicate(240)
    assert run.returncode == 0, errors
    run.close()
    told = json.loads(out)
    assert told["status"] == "finished"
    for what in ("the checkpoint", "the bill", "a line of the log", "TensorBoard"):
        assert len([alarm for alarm in told["alarms"] if what in alarm]) == 1, told["alarms"]
    assert len(told["alarms"]) == 4
    assert [line for line in told["said"] if line.startswith("ALARM: ")]
    assert_whole(root, told["steps"], *told["full"])


def assert_whole(root: Path, num_steps: int, full_from: int, full_until: int) -> None:
    """The last checkpoint, the bill, and every line of the log but those of the full disk."""
    (folder,) = root.glob("runs/*")
    loaded = load_latest(folder / "checkpoints")
    assert loaded is not None
    assert (loaded.step, loaded.skipped) == (num_steps, ())
    with open_books(open_workspace(root)) as books:
        (row,) = books.read(lambda connection: connection.execute(select(runs)).mappings().all())
        assert (row["status"], row["num_steps"]) == ("finished", num_steps)
        assert reconcile(books).holds
    steps, torn = [], 0
    for line in (folder / "log.jsonl").read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            torn += 1
            continue
        steps += [event["step"]] if event["kind"] == "step" else []
    assert torn <= 1
    assert steps == [step for step in range(1, num_steps + 1) if step <= full_from or step > full_until]
