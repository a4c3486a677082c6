"""Two processes that train together do what one does with their batches together."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tuition.runtime.group import ALONE
from unit.train.group_member import RUINED, STEPS, train

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("group")
    chance = random.Random(0)
    words = ["rose", "thorn", "king", "queen", "alpha", "omega"]
    (made / "text.txt").write_text("".join(" ".join(chance.choices(words, k=8)) + ".\n" for _ in range(400)))
    return made


@pytest.fixture(scope="module")
def members(folder: Path) -> list[list[dict[str, Any]]]:
    """What both members of a real group (gloo, over loopback) have found, in each of two runs."""
    script = Path(__file__).with_name("group_member.py")
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": paths}
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    found = []
    for process in started:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        found.append(json.loads(out.splitlines()[-1]))
    return found


def test_two_members_have_the_losses_of_one_process_with_both_batches(
    folder: Path, members: list[list[dict[str, Any]]]
) -> None:
    """float32: only the order of sums differs. The clock of member 1 would have ended after 5 steps."""
    alone = train(folder, 8, ALONE)
    first, second = members[0][0], members[1][0]
    assert first == second
    assert len(first["losses"]) == STEPS
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert first["units"] == alone["units"]
    assert first["lr"] == alone["lr"]


def test_a_step_that_one_member_ruins_is_skipped_by_both(members: list[list[dict[str, Any]]]) -> None:
    first, second = members[0][1], members[1][1]
    assert first["skipped"] == second["skipped"] == [RUINED]
    assert first["digest"] == second["digest"]


def test_a_group_of_one_is_its_own_sum_and_decision() -> None:
    assert (ALONE.sum(3.0), ALONE.decide(1.0, False)) == (3.0, (1.0, False))
