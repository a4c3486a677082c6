"""Starts programs quickly: a process that has imported everything forks them.

`Forge` and `ForgedProcess` are for tests. Run as a program, this file takes jobs from a socket: source text,
arguments and environment as JSON, and the descriptors that become the program's output, its errors and the
pipe for its process id and its exit status.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO

IMPORTED = (
    "reliability.serve.tiny_server",
    "tuition.cli.main",
    "tuition.desk.engine",
    "tuition.engine.torch_runner",
    "tuition.ledger.reconciliation",
    "tuition.model.decoder",
    "tuition.serve.server",
    "tuition.studio.chat",
)
TINY_SERVER = "from reliability.serve import tiny_server; tiny_server.main()"
TUITION = "import sys; from tuition.cli.main import main; sys.exit(main())"
_MAX_JOB_BYTES = 1 << 17


class ForgedProcess:
    """What tests use of a `subprocess.Popen`, of a process that another one has forked."""

    def __init__(self, status: IO[str], stdout: IO[str], log: IO[bytes]) -> None:
        self.pid = int(status.readline())
        self.stdout, self._log, self._status = stdout, log, status
        self.returncode: int | None = None

    @property
    def errors(self) -> str:
        """What it has written to its log."""
        self._log.seek(0)
        return self._log.read().decode()

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Its output and its errors, when it has ended."""
        out = self.stdout.read()
        self.wait(timeout)
        return out, self.errors

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the pipes and the log."""
        for pipe in (self._status, self.stdout, self._log):
            pipe.close()

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
        return self.returncode


class Forge:
    """The process that forks programs; started by the first one."""

    def __init__(self) -> None:
        self._door: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, program: str, arguments: Sequence[str], log: IO[bytes] | None = None) -> ForgedProcess:
        """Run Python source with the present environment; its errors go to `log`, else into a file without a
        name."""
        door, log = self._door or self._open(), log or tempfile.TemporaryFile()  # noqa: SIM115
        (output, its_output), (status, its_status) = os.pipe(), os.pipe()
        job = json.dumps([program, list(arguments), dict(os.environ)]).encode()
        socket.send_fds(door, [job], [its_output, log.fileno(), its_status])
        os.close(its_output)
        os.close(its_status)
        return ForgedProcess(os.fdopen(status), os.fdopen(output), log)

    def close(self) -> None:
        if self._door is not None and self._process is not None:
            self._door.close()
            self._process.wait(20)

    def _open(self) -> socket.socket:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        theirs.close()
        return self._door


def take_job(door: socket.socket) -> tuple[str, list[str], dict[str, str], list[int]] | None:
    """The next job and its descriptors; None where the tests are over."""
    job, descriptors, *_ = socket.recv_fds(door, _MAX_JOB_BYTES, 3)
    return (*json.loads(job), descriptors) if job else None


def collect() -> None:
    """Forget the processes that have ended, and take over what they report of processor time."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def become(arguments: list[str], environment: dict[str, str], descriptors: list[int]) -> None:
    """In a process that waits for it and tells its status, make this one the program that was asked for."""
    stdout, stderr, status = descriptors
    if child := os.fork():
        os.close(stdout)
        os.close(stderr)
        os.write(status, b"%d\n" % child)
        os.write(status, b"%d\n" % os.waitpid(child, 0)[1])
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGHUP):  # a job in the background of a shell would ignore them
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for descriptor in descriptors:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments


def main() -> None:
    """Fork a program for each job. It leaves the loop and ends as any program does."""
    for name in IMPORTED:
        importlib.import_module(name)
    door = socket.socket(fileno=int(sys.argv[1]))
    while job := take_job(door):
        collect()
        program, arguments, environment, descriptors = job
        if os.fork() == 0:
            door.close()
            become(arguments, environment, descriptors)
            exec(compile(program, "program", "exec"), {"__name__": "__main__"})  # noqa: S102 - a test's own
            return
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    main()
