"""Forbid every connection and name lookup that leaves this machine (RELIABILITY S12).

`tests/conftest.py` arms it in its process. Python children arm themselves: this folder is on PYTHONPATH, and
an interpreter imports `sitecustomize` when it starts. An attempt raises, and is appended to the file named by
TUITION_OFFLINE_LOG, so that it fails the suite even where the error was swallowed.
"""

import ipaddress
import os
import socket
import sys
from typing import Any

LOCAL_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost", "testserver"}
LOCAL_NAMES |= {"0.0.0.0", "::"}  # noqa: S104 - where a server listens
CONNECTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}


class OfflineError(OSError):
    """Something tried to leave the machine while the tests ran."""


def is_local(host: Any) -> bool:
    """Whether this host, as a socket call takes it, is this machine."""
    if host is None:
        return True
    name = host.decode(errors="replace") if isinstance(host, (bytes, bytearray)) else str(host)
    if name.lower().rstrip(".") in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def foreign_target(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The host that this audit event would reach outside this machine, or None."""
    if event in CONNECTS:
        source, address = arguments[0], arguments[-1]
        if getattr(source, "family", None) == socket.AF_UNIX or not isinstance(address, tuple):
            return None
        return None if is_local(address[0]) else str(address[0])
    if event in LOOKUPS:
        host = arguments[0][0] if event == "socket.getnameinfo" else arguments[0]
        return None if is_local(host) else str(host)
    return None


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook. Raises: OfflineError."""
    if not event.startswith("socket."):
        return
    target = foreign_target(event, arguments)
    if target is None:
        return
    line = f"pid {os.getpid()} ({' '.join(sys.argv[:2])}): {event} {target}"
    if log := os.environ.get("TUITION_OFFLINE_LOG"):
        with open(log, "a") as file:
            file.write(line + "\n")
    raise OfflineError(f"the suite is offline: {line}")


if os.environ.get("TUITION_OFFLINE_LOG"):
    sys.addaudithook(watch)
