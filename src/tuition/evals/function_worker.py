"""Calls a user's function for replies, in a separate process with limits that it cannot leave.

Run as a script by `function_process`, never imported: arguments are the file, the function and the limits;
standard input brings items with replies, and standard output takes scores, as JSON in parts of `core.worker`.
"""

import ctypes
import importlib.util
import json
import os
import resource
import sys
from typing import Any

from tuition.core.worker import read_parts, write_parts

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn")
"""Audit events of what would reach the network, or start a process that could."""

LONGEST_ERROR = 300
"""Characters: it becomes part of one line."""


def main() -> None:
    path, name, megabytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints does not mix with the scores
    leave_network()
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(refuse)
    function = None
    while (parts := read_parts(sys.stdin.buffer)) is not None:
        try:
            if function is None:
                function = load(path, name)
            job = json.loads(parts[0])
            answer = {"score": score_of(function(job["item"], job["reply"]))}
        except MemoryError:
            answer = {"limit": f"used more than {megabytes:,} MB"}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:LONGEST_ERROR]}
        write_parts(told, [json.dumps(answer).encode()])


def leave_network() -> None:
    """Its own network without any interface, where the kernel lets a process have one."""
    if sys.platform != "linux":
        return
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is not None and unshare(CLONE_NEWNET) != 0:
        unshare(CLONE_NEWUSER | CLONE_NEWNET)


def refuse(event: str, _: tuple[Any, ...]) -> None:
    if event.startswith(REFUSED):
        raise PermissionError(f"a function that judges replies may not use {event}")


def load(path: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location("judge_of_the_user", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def score_of(value: Any) -> float:
    """True, False, or a number from 0 to 1."""
    if isinstance(value, (bool, int, float)) and 0 <= value <= 1:
        return float(value)
    raise TypeError(f"returned {value!r}, wanted True, False, or a number from 0 to 1")


if __name__ == "__main__":
    main()
