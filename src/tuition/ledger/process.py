"""Which process keeps a run, so that a run whose process was killed can be told from one that goes on."""

import os
import platform
import time
from pathlib import Path

import psutil

STALE_NS = 600 * 10**9
"""A run of another machine, whose processes cannot be seen, is taken for ended when its row is older."""

CLOCK_STEP_S = 120.0
"""Where only the time of day of a start is known: how far the clock may have been set since."""


def process_identity(pid: int | None = None) -> str:
    """Host, boot, process namespace, pid and start time: no other process ever has the same."""
    pid = os.getpid() if pid is None else pid
    return "|".join((*_place(), str(pid), started(pid)))


def started(pid: int) -> str:
    """Start time of a process by a clock that cannot be set. Raises: psutil.NoSuchProcess.

    On Linux in ticks since the boot. The time of day that psutil makes of it moves when the clock is set.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{psutil.Process(pid).create_time():.2f}"
    return "t" + stat.rpartition(")")[2].split()[19]


def _place() -> tuple[str, str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        boot, namespace = f"{psutil.boot_time():.0f}", "-"
    return platform.node().replace("|", "_"), boot, namespace


def has_ended(identity: str, updated_unix_ns: int) -> bool:
    """Whether the process is gone; for one elsewhere, whether it has been silent for long."""
    silent = time.time_ns() - updated_unix_ns > STALE_NS
    if identity.count("|") < 2:
        return silent  # not written by this program
    *place, pid, begun = identity.split("|")
    if tuple(place) != _place():
        return place[:1] == [_place()[0]] or silent
    try:
        if psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE:
            return True
        if not begun.startswith("t"):  # written before ticks were
            return abs(psutil.Process(int(pid)).create_time() - float(begun)) > CLOCK_STEP_S
        return started(int(pid)) != begun
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
