"""Durable checkpoints: damage never goes unseen, and there is always a whole one."""

import errno
import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from tuition.core.errors import ModelError
from tuition.runtime import checkpoints
from tuition.runtime.checkpoints import find_damage, list_checkpoints, load_latest, prune, save_checkpoint


def tensors_of(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model/weight": torch.randn(7, 5, generator=generator),
        "half": torch.randn(3, generator=generator).to(torch.bfloat16),
        "random/cpu": torch.arange(16, dtype=torch.uint8),
        "count": torch.tensor(float(step)),
    }


def save(folder: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(folder, step, tensors_of(step), {"step": step, "note": "Ä"}, keep=keep)


def assert_is(loaded: checkpoints.Checkpoint | None, step: int) -> None:
    assert loaded is not None
    assert loaded.step == step
    assert loaded.state == {"step": step, "note": "Ä"}
    wanted = tensors_of(step)
    assert loaded.tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        assert loaded.tensors[name].dtype == value.dtype
        assert torch.equal(loaded.tensors[name], value)


def test_what_was_saved_comes_back_in_every_dtype(tmp_path: Path) -> None:
    save(tmp_path, 3)
    assert_is(load_latest(tmp_path), 3)


def test_no_checkpoint_is_none_and_not_an_error(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "nowhere") is None


def test_only_the_newest_are_kept_and_latest_names_the_last(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-0000000003", "step-0000000004"]
    assert (tmp_path / "latest").read_text().strip() == "step-0000000004"


def test_every_flipped_bit_is_found_and_the_one_before_is_used(tmp_path: Path) -> None:
    """C3: a flip anywhere in the three files, the manifest's own bytes included."""
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    chance = random.Random(0)
    missed = 0
    for _ in range(300):
        path = newest / chance.choice(["tensors.safetensors", "state.json", "manifest.json"])
        whole = path.read_bytes()
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
        missed += find_damage(newest) is None
        loaded = load_latest(tmp_path)
        assert_is(loaded, 1)
        assert loaded is not None
        assert loaded.skipped[0].path == newest
        path.write_bytes(whole)
    assert missed == 0
    assert_is(load_latest(tmp_path), 2)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("length", [0, 1, 20, -1])
def test_a_truncated_file_is_found(tmp_path: Path, name: str, length: int) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    (newest / name).write_bytes((newest / name).read_bytes()[:length])
    assert_is(load_latest(tmp_path), 1)


def test_files_swapped_between_checkpoints_are_found(tmp_path: Path) -> None:
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    shutil.copy(old / "tensors.safetensors", new / "tensors.safetensors")
    assert_is(load_latest(tmp_path), 1)
    shutil.rmtree(new)
    shutil.copytree(old, new)  # whole, but of another step
    assert_is(load_latest(tmp_path), 1)


def test_when_all_are_damaged_each_is_named(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").unlink()
    with pytest.raises(ModelError, match=r"step-0000000002: .*step-0000000001: "):
        load_latest(tmp_path)


def test_the_last_whole_one_is_never_removed(tmp_path: Path) -> None:
    """C4: with both newer ones damaged, pruning keeps the old one."""
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    for step in (2, 3):
        (tmp_path / f"step-{step:010d}" / "state.json").write_text("{}")
    prune(tmp_path, 2)
    assert_is(load_latest(tmp_path), 1)


def test_saving_a_step_again_replaces_it_only_when_it_is_damaged(tmp_path: Path) -> None:
    first = save(tmp_path, 1)
    save_checkpoint(tmp_path, 1, {}, {"other": True}, keep=2)
    assert_is(load_latest(tmp_path), 1)
    (first / "state.json").write_text("{}")
    save(tmp_path, 1)
    assert_is(load_latest(tmp_path), 1)


@pytest.mark.parametrize("failing", ["save_file", "sync_file", "publish_folder", "write_durably"])
def test_a_full_disk_raises_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """At each kind of write."""
    save(tmp_path, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, failing, full)
        with pytest.raises(OSError, match="No space"):
            save(tmp_path, 2)
    loaded = load_latest(tmp_path)
    assert_is(loaded, 2 if failing == "write_durably" else 1)  # then only the name `latest` was not moved
    save(tmp_path, 3)
    assert_is(load_latest(tmp_path), 3)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_the_name_that_safetensors_has_for_a_full_disk_is_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(OSError, match="No space left") as caught:
            save(tmp_path, 2)
    assert caught.value.errno == errno.ENOSPC
    assert_is(load_latest(tmp_path), 1)


def test_the_manifest_says_shapes_and_types(tmp_path: Path) -> None:
    body = json.loads((save(tmp_path, 1) / "manifest.json").read_text())["body"]
    assert body["tensors"]["model/weight"] == {"shape": [7, 5], "dtype": "torch.float32"}
    assert body["files"]["state.json"]["size"] == (tmp_path / "step-0000000001/state.json").stat().st_size


OPERATIONS = ("fsync", "replace", "rename", "rmdir", "unlink")


def crash_at(folder: Path, operation: int, disk_is_synced: bool = True) -> bool:
    """Save step 3 in a child that dies before its n-th operation on the disk, with what was not synced lost.

    Returns whether the save came to its end instead.
    """
    child = os.fork()
    if child == 0:
        synced: set[int] = set()
        seen = 0

        def counted(name: str):
            real = getattr(os, name)

            def call(*args, **kwargs):
                nonlocal seen
                if seen == operation:
                    lose_unsynced(folder, synced)
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
                if name == "fsync" and disk_is_synced:
                    synced.add(os.fstat(args[0]).st_ino)
                return real(*args, **kwargs)

            return call

        for path in folder.rglob("*"):
            synced.add(path.stat().st_ino)
        for name in OPERATIONS:
            setattr(os, name, counted(name))
        code = 1
        try:
            save(folder, 3)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def lose_unsynced(folder: Path, synced: set[int]) -> None:
    """A power loss: content that was never synced is gone."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_ino not in synced:
            path.write_bytes(b"")


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_crash_at_any_operation_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """C2: whatever the moment, the old or the new one loads, and the next save leaves no strays."""
    finished = False
    for operation in range(200):
        folder = tmp_path / str(operation)
        for step in (1, 2):
            save(folder, step)
        finished = crash_at(folder, operation)
        loaded = load_latest(folder)
        assert loaded is not None
        assert_is(loaded, loaded.step)
        assert loaded.step in (2, 3)
        assert not loaded.skipped
        save(folder, 4)
        assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]
        if finished:
            assert loaded.step == 3
            break
    assert finished
    assert operation > 10


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_the_crash_test_finds_a_save_that_does_not_sync(tmp_path: Path) -> None:
    """The planted fault: with fsync doing nothing, some moment leaves a named folder with lost content."""
    damaged = 0
    for operation in range(200):
        folder = tmp_path / str(operation)
        save(folder, 1)
        finished = crash_at(folder, operation, disk_is_synced=False)
        loaded = load_latest(folder)
        assert_is(loaded, 3 if finished else 1)
        assert loaded is not None
        damaged += bool(loaded.skipped)
        if finished:
            break
    assert damaged > 0
