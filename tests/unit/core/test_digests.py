"""A kept digest is used for the file as it was, and for no other."""

import os
import time
from pathlib import Path

import pytest

from tuition.core import digests
from tuition.core.digests import DigestCache
from tuition.core.durable import file_digest


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file written long ago, by the clock of the cache."""
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    now = time.time_ns
    monkeypatch.setattr(digests.time, "time_ns", lambda: now() + 3_000_000_000)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is hashed."""
    found: list[Path] = []

    def hashed(path: Path) -> str:
        found.append(path)
        return file_digest(path)

    monkeypatch.setattr(digests, "file_digest", hashed)
    return found


def test_a_file_is_read_once(settled: Path, tmp_path: Path, reads: list[Path]) -> None:
    expected = file_digest(settled)
    assert [DigestCache(settled).digest(settled) for _ in range(3)] == [expected] * 3
    assert reads == [settled] * 3, "a file is no folder: nothing is kept, nothing fails"
    assert [DigestCache(tmp_path / "kept").digest(settled) for _ in range(3)] == [expected] * 3
    assert len(reads) == 4


@pytest.mark.parametrize("same_times", [False, True])
def test_a_file_that_was_written_again_is_read_again(settled: Path, tmp_path: Path, same_times: bool) -> None:
    cache = DigestCache(tmp_path)
    before, status = cache.digest(settled), os.stat(settled)
    time.sleep(0.02)  # the clock of a file system may tick every few milliseconds
    settled.write_bytes(b"two")
    if same_times:
        os.utime(settled, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.digest(settled) == file_digest(settled) != before


def test_another_file_under_the_name_is_read(settled: Path, tmp_path: Path) -> None:
    cache = DigestCache(tmp_path)
    before = cache.digest(settled)
    (tmp_path / "other").write_bytes(b"two")
    os.replace(tmp_path / "other", settled)
    assert cache.digest(settled) != before


def test_a_file_that_was_just_written_is_not_kept(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    for _ in range(2):
        DigestCache(tmp_path).digest(path)
    assert len(reads) == 2


def test_a_damaged_entry_is_made_anew(settled: Path, tmp_path: Path) -> None:
    cache = DigestCache(tmp_path)
    digest = cache.digest(settled)
    kept = next(tmp_path.glob("digest-*.json"))
    for damaged in ("", "[]", "{", '{"facts": 1}', kept.read_text().replace(digest, "00")):
        kept.write_text(damaged)
        assert cache.digest(settled) == digest
