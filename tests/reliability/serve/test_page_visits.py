"""Visits of the page by programs that never open its socket cost no descriptors and little memory."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

VISITS = 40


def test_visits_hold_no_descriptors(child: Callable[..., Any], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be", encoding="utf-8")
    server = child(tmp_path / "books", "--text", str(text), "--pages")

    def visit() -> None:
        assert httpx.get(server.url, headers={"accept": "text/html"}, timeout=60).status_code == 200

    def held() -> tuple[int, int]:
        folder = Path(f"/proc/{server.process.pid}")
        resident = next(line for line in (folder / "status").read_text().splitlines() if "VmRSS" in line)
        return len(os.listdir(folder / "fd")), int(resident.split()[1])

    visit()
    descriptors, kib = held()
    for _ in range(VISITS):
        visit()
    after, kib_after = held()
    print(f"S15: {VISITS} visits hold {after - descriptors} descriptors, {kib_after - kib:,} KiB")
    assert after <= descriptors + 2
    assert (kib_after - kib) / VISITS < 512
    server.signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
