"""The user's own function judges in a process that cannot use the network, or more time and memory."""

import subprocess
from pathlib import Path

import pytest

from tuition.core.errors import DataError
from tuition.evals.function_process import FunctionLimits, FunctionProcess

SOURCE = """
import os, socket, subprocess, sys, time
seen = []
def judge(item, reply):
    seen.append(reply)
    print("printed text does not mix with scores")
    return reply == item["target"]
def part(item, reply): return len(reply) / 10
def count(item, reply): seen.append(1); return len(seen) / 10
def wrong(item, reply): return "yes"
def fails(item, reply): return item["none"]
def talks(item, reply): raise ValueError("a" * 100_000)
def sleeps(item, reply):
    if reply == "slow": time.sleep(60)
    return True
def grows(item, reply):
    if reply == "much": return len(bytearray(2**33)) > 0
    return True
def leaves(item, reply):
    if reply == "exit": os._exit(3)
    return True
def connects(item, reply):
    socket.create_connection(("127.0.0.1", int(reply)), timeout=5)
    return True
def links(item, reply):
    with open("/proc/self/net/dev") as file:
        return len(file.readlines()) - 2 <= int(reply)
def starts(item, reply):
    subprocess.run([sys.executable, "-c", "pass"])
    return True
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(SOURCE)
    return path


def test_a_function_gives_true_false_or_a_part(own: Path) -> None:
    with FunctionProcess(own, "judge") as process:
        assert process.score({"target": "a"}, "a") == (1.0, None)
        assert process.score({"target": "a"}, "b") == (0.0, None)
    with FunctionProcess(own, "part") as process:
        assert process.score({}, "12345") == (0.5, None)


def test_one_process_judges_all_replies(own: Path) -> None:
    with FunctionProcess(own, "count") as process:
        assert [process.score({}, "")[0] for _ in range(3)] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong", "wrong failed: TypeError: returned 'yes', wanted True, False, or a number from 0 to 1"),
        ("fails", "fails failed: KeyError: 'none'"),
        ("talks", "talks failed: ValueError: a{200,290};"),
        ("nowhere", "nowhere failed: AttributeError"),
        ("starts", "starts failed: PermissionError: .* may not use subprocess.Popen"),
    ],
)
def test_a_function_that_fails_is_an_error_and_no_wrong_reply(own: Path, name: str, message: str) -> None:
    with FunctionProcess(own, name) as process, pytest.raises(DataError, match=message):
        process.score({}, "a")


@pytest.mark.parametrize(
    ("name", "reply", "limit"),
    [
        ("sleeps", "slow", "took more than 1 s"),
        ("grows", "much", "used more than 512 MB"),
        ("leaves", "exit", "ended the process that judges"),
    ],
)
def test_a_reply_that_breaks_a_limit_is_wrong_and_the_next_one_is_judged(
    own: Path, name: str, reply: str, limit: str
) -> None:
    with FunctionProcess(own, name, FunctionLimits(wall_s=1.0, memory_mb=512)) as process:
        assert process.score({}, "good") == (1.0, None)
        assert process.score({}, reply) == (0.0, limit)
        assert process.score({}, "good") == (1.0, None)


def test_no_function_reaches_the_network_not_even_this_machine(own: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server, FunctionProcess(own, "connects") as process:
        port = str(server.getsockname()[1])
        with pytest.raises(DataError, match=r"PermissionError: .* may not use socket"):
            process.score({}, port)


def test_the_process_has_a_network_of_its_own_where_the_kernel_allows_one(own: Path) -> None:
    """Also what goes past Python's sockets finds only a loopback that is down."""
    allowed = subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0
    allowed = allowed or subprocess.run(["unshare", "-Un", "true"], capture_output=True).returncode == 0
    if not allowed:
        pytest.skip("this kernel lets no process have a network of its own")
    with FunctionProcess(own, "links") as process:
        assert process.score({}, "1") == (1.0, None)
