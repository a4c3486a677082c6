"""Run one process to its end and see what it took: output, seconds, peak memory."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class ProcessError(Exception):
    """A side could not run: its command and the end of what it said."""


@dataclass(frozen=True)
class Finished:
    """A process that ended well."""

    stdout: str
    stderr: str
    wall_s: float
    peak_bytes: int
    """Highest resident memory, mapped files included."""


def run_process(
    command: Sequence[str], env: Mapping[str, str] | None = None, limit_s: float = 1800
) -> Finished:
    """Run `command` on the cores of this process. Raises: ProcessError with the end of its output."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # some engines end their whole process group
                env={**os.environ, **quiet, **(env or {})},
            )
        except OSError as error:
            raise ProcessError(f"{command[0]}: {error}") from error
        alarm = threading.Timer(limit_s, os.killpg, (child.pid, signal.SIGKILL))
        alarm.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        finally:
            alarm.cancel()
        wall_s = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        stdout, stderr = out.read(), err.read()
    if child.returncode != 0:
        tail = " | ".join((stderr.strip() or stdout.strip()).splitlines()[-6:])
        raise ProcessError(f"{command[0]} ended with {child.returncode}: {tail[-900:]}")
    return Finished(stdout, stderr, wall_s, usage.ru_maxrss * 1024)
