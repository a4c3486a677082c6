"""The demo's view of its server: what goes wrong is told, with the log that says more."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tuition.cli import demo_server
from tuition.cli.demo_server import Server
from tuition.core.errors import TuitionError

URL = "http://127.0.0.1:9"


def run(code: str, log: Path) -> "subprocess.Popen[bytes]":
    with open(log, "wb") as said:
        return subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=said, stderr=said)


def test_a_server_that_is_not_there_is_said_too(tmp_path: Path) -> None:
    server = Server(URL, "tiny", tmp_path / "the-log")
    for ask in (server.digest, lambda: server.chat([], print), lambda: server.complete("a", print)):
        with pytest.raises(TuitionError, match=r"cannot be reached.*the-log") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_the_address_is_found_among_what_the_server_says(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said = "print('x' * 200_000); print('serving bard at http://127.0.0.1:77/v1', flush=True)"
    process = run(f"import time; {said}; time.sleep(60)", log)
    try:
        assert demo_server.wait_for_url(process, log) == "http://127.0.0.1:77"
    finally:
        process.kill()
        process.wait()


def test_the_last_words_of_a_server_that_does_not_start_are_kept(tmp_path: Path) -> None:
    """However fast it ends: whether they are read may not depend on who is first."""
    log = tmp_path / "log"
    process = run("import sys; sys.exit('tuition: no model named bard')", log)
    with pytest.raises(TuitionError, match=r"status 1; tuition: no model named bard \(all it said: .*log\)"):
        demo_server.wait_for_url(process, log)
    process = run("", log)
    with pytest.raises(TuitionError, match="status 0; it said nothing"):
        demo_server.wait_for_url(process, log)


def test_a_silent_server_is_not_waited_for_longer_than_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_server, "START_S", 0.2)
    process = run("import time; time.sleep(60)", tmp_path / "log")
    began = time.monotonic()
    try:
        with pytest.raises(TuitionError, match=r"did not start within 0\.2 s; it said nothing"):
            demo_server.wait_for_url(process, tmp_path / "log")
        assert time.monotonic() - began < 30  # far below the minute it is silent, for a machine that is busy
    finally:
        process.kill()
        process.wait()
