"""The suite's own watch sees what it should: planted attempts fail, here and in a child process."""

import os
import socket
import subprocess
import sys

import pytest

NOWHERE = "192.0.2.1"
"""An address for documentation, routed nowhere (RFC 5737); the watch knows it as a planted attempt."""


def test_a_name_lookup_outside_fails() -> None:
    with pytest.raises(OSError, match="the suite is offline"):
        socket.getaddrinfo("planted.invalid", 443)


def test_a_connection_outside_fails() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as plug,
        pytest.raises(OSError, match="the suite is offline"),
    ):
        plug.connect((NOWHERE, 443))


def test_a_datagram_outside_fails() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug,
        pytest.raises(OSError, match="the suite is offline"),
    ):
        plug.sendto(b"x", (NOWHERE, 53))


def test_a_child_process_is_watched_too() -> None:
    code = "import socket; socket.gethostbyname('planted.invalid')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "the suite is offline" in done.stderr
    with open(os.environ["TUITION_OFFLINE_LOG"]) as file:
        assert "planted.invalid" in file.read()


def test_loopback_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            client.sendall(b"hello")
        assert server.accept()[0].recv(5) == b"hello"
