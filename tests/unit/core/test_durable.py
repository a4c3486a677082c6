"""Durable files: a reader finds the old or the new, also when the writer fails or is killed midway."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuition.core import durable


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    durable.write_json(path, {"x": 1})

    def fail(*names: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        durable.write_json(path, {"x": 2})
    assert path.read_text() == '{\n  "x": 1\n}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"], "no stray is left behind"


def test_nan_is_refused_rather_than_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        durable.write_json(tmp_path / "a.json", float("nan"))


@pytest.mark.parametrize("text", ["caf\udce9", "ünï \U0001f9ee", "\\udce9", '"\n'])
def test_every_text_is_read_back_as_it_was(tmp_path: Path, text: str) -> None:
    durable.write_json(tmp_path / "a.json", {text: text})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {text: text}


def test_the_order_is_content_then_name_then_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renaming before the content is synced can leave an empty file under the final name after power loss."""
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("sync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), replace(*names)))
    durable.write_durably(tmp_path / "a", b"x")
    assert order == ["sync", "rename", "sync"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a")

    def fail(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        durable.publish_folder(tmp_path / "model", fail)
    assert list(tmp_path.iterdir()) == []
    assert (durable.publish_folder(tmp_path / "model", fill) / "sub" / "a").read_text() == "a"


def test_a_killed_writer_leaves_only_a_stray_that_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom tuition.core.durable import publish_folder\n"
        "def fill(folder):\n    (folder / 'a').write_text('a')\n    os.kill(os.getpid(), 9)\n"
        "publish_folder(Path(sys.argv[1]) / 'model', fill)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert done.returncode == -9
    assert not (tmp_path / "model").exists()
    assert len(list(tmp_path.iterdir())) == 1
    durable.remove_strays(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_digest_is_sha_256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert durable.file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
