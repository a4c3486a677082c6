"""Which process keeps a run, so that a run whose process was killed can be told from one that goes on."""

import os
import platform
import time
from pathlib import Path

import psutil

STALE_NS = 600 * 10**9
"""A run of another machine, whose processes cannot be seen, is taken for ended when its row is older."""


def process_identity(pid: int | None = None) -> str:
    """Host, boot, process namespace, pid and start time: no other process ever has the same."""
    process = psutil.Process(pid)
    return "|".join((*_place(), str(process.pid), f"{process.create_time():.2f}"))


def _place() -> tuple[str, str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        boot, namespace = f"{psutil.boot_time():.0f}", "-"
    return platform.node().replace("|", "_"), boot, namespace


def has_ended(identity: str, updated_unix_ns: int) -> bool:
    """Whether the process is gone; for one elsewhere, whether it has been silent for long."""
    *place, pid, started = identity.split("|")
    if tuple(place) != _place():
        return place[:1] == [_place()[0]] or time.time_ns() - updated_unix_ns > STALE_NS
    try:
        process = psutil.Process(int(pid))
        return process.status() == psutil.STATUS_ZOMBIE or f"{process.create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
