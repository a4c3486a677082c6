"""Checkpoints that survive a crash, a flipped bit and a full disk.

In: a step number, named tensors, a JSON state.  Out: a folder `step-0000000120/` with three files:

    tensors.safetensors    every tensor
    state.json             everything else
    manifest.json          size and SHA-256 of both, shape and dtype of each tensor, and a digest of itself

Order of a save: files -> fsync -> manifest -> fsync -> the folder gets its name -> fsync of the parent ->
`latest` -> only then older ones are removed. So at each moment a whole checkpoint is on disk, or there was
none yet.
A load checks every byte before a tensor is used, and falls back to the one before when the newest is damaged.
"""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save_file
from torch import Tensor

from tuition.core.durable import (
    file_digest,
    publish_folder,
    remove_strays,
    sync_file,
    sync_folder,
    write_durably,
)
from tuition.core.errors import ModelError

FORMAT = 1
TENSORS, STATE, MANIFEST, LATEST = "tensors.safetensors", "state.json", "manifest.json", "latest"
_NAME = re.compile(r"step-(\d{10})")


@dataclass(frozen=True)
class Damage:
    """A checkpoint that is damaged."""

    path: Path
    problem: str


@dataclass(frozen=True)
class Checkpoint:
    """What was loaded, every byte of it verified."""

    step: int
    tensors: dict[str, Tensor]
    """On the CPU, in the dtype they were saved in."""
    state: dict[str, Any]
    path: Path
    skipped: tuple[Damage, ...] = ()
    """Newer checkpoints that were damaged."""


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int
) -> Path:
    """Write one checkpoint durably, then remove all but the newest `keep`.

    One saver per folder. A checkpoint of this step that is there already is replaced only if it is damaged.
    Raises: OSError (disk full, input/output error): what was there before is then untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_strays(folder)
    target = _path(folder, step)
    if target.exists():
        if find_damage(target) is None:
            return target
        _remove(target)

    def fill(staging: Path) -> None:
        _fill(staging, step, tensors, state)

    publish_folder(target, fill)
    write_durably(folder / LATEST, target.name + "\n")
    prune(folder, keep)
    return target


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, None when there is none at all.

    Raises: ModelError when there are checkpoints and every one of them is damaged.
    """
    skipped: list[Damage] = []
    for path in reversed(list_checkpoints(folder)):
        loaded = _load(path)
        if isinstance(loaded, Damage):
            skipped.append(loaded)
            continue
        tensors, state = loaded
        return Checkpoint(step_of(path), tensors, state, path, tuple(skipped))
    if skipped:
        problems = "; ".join(f"{damage.path.name}: {damage.problem}" for damage in skipped)
        raise ModelError(folder, f"every checkpoint is damaged ({problems})", way_out="begin a new run")
    return None


def load_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of this step. Raises: ModelError when it is missing or damaged."""
    path = _path(folder, step)
    loaded = _load(path)
    if isinstance(loaded, Damage):
        raise ModelError(path, loaded.problem, way_out="begin a new run")
    return Checkpoint(step, *loaded, path)


def remove_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps."""
    for path in list_checkpoints(folder):
        if step_of(path) > step:
            _remove(path)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:010d}"


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(path.name.removeprefix("step-"))


def find_damage(path: Path) -> Damage | None:
    """Compare a checkpoint with its manifest, byte by byte; None when it is whole."""
    return _check(path, {name: None for name in (TENSORS, STATE)})


def prune(folder: Path, keep: int) -> None:
    """Remove checkpoints older than the newest `keep`, unless none of those is whole."""
    paths = list_checkpoints(folder)
    old, kept = paths[:-keep], paths[-keep:]
    if old and any(find_damage(path) is None for path in reversed(kept)):
        for path in old:
            _remove(path)


def _remove(path: Path) -> None:
    """Rename the folder first, so that a crash leaves a stray folder and not a partial checkpoint."""
    stray = path.with_name(f".{path.name}.removed.tmp")
    shutil.rmtree(stray, ignore_errors=True)
    path.rename(stray)
    sync_folder(path.parent)
    shutil.rmtree(stray, ignore_errors=True)


def _fill(staging: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(held, staging / TENSORS)
    except SafetensorError as error:  # its own name for whatever the disk says
        found = re.search(r"os error (\d+)", str(error))
        raise OSError(int(found[1]) if found else errno.EIO, str(error), TENSORS) from error
    (staging / STATE).write_text(json.dumps(state, ensure_ascii=True, allow_nan=False))
    for name in (TENSORS, STATE):
        sync_file(staging / name)
    body = {
        "format": FORMAT,
        "step": step,
        "files": {
            name: {"size": (staging / name).stat().st_size, "sha256": file_digest(staging / name)}
            for name in (TENSORS, STATE)
        },
        "tensors": {name: {"shape": list(t.shape), "dtype": str(t.dtype)} for name, t in held.items()},
    }
    (staging / MANIFEST).write_bytes(_seal(body))
    sync_file(staging / MANIFEST)


def _seal(body: dict[str, Any]) -> bytes:
    """The manifest's bytes; each manifest has exactly one spelling, so any changed byte is
    found."""
    digest = hashlib.sha256(_canonical(body)).hexdigest()
    return _canonical({"body": body, "sha256": digest})


def _canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, allow_nan=False).encode()


def _read_manifest(path: Path) -> dict[str, Any] | str:
    """The manifest's body, or what is wrong with it."""
    try:
        raw = (path / MANIFEST).read_bytes()
        body = json.loads(raw)["body"]
    except OSError as error:
        return f"{MANIFEST} cannot be read ({error})"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is not a manifest"
    if _seal(body) != raw:
        return f"{MANIFEST} does not match its own digest"
    if body["format"] != FORMAT:
        return f"{MANIFEST} has format {body['format']}, wanted {FORMAT}"
    if body["step"] != step_of(path):
        return f"{MANIFEST} is of step {body['step']}"
    return body


def _check(path: Path, contents: dict[str, bytes | None]) -> Damage | None:
    """Compare each file, or the bytes given for it, with the manifest."""
    body = _read_manifest(path)
    if isinstance(body, str):
        return Damage(path, body)
    for name, content in contents.items():
        wanted = body["files"][name]
        try:
            size = (path / name).stat().st_size if content is None else len(content)
            if size != wanted["size"]:
                return Damage(path, f"{name} has {size:,} bytes, the manifest says {wanted['size']:,}")
            digest = file_digest(path / name) if content is None else hashlib.sha256(content).hexdigest()
        except OSError as error:
            return Damage(path, f"{name} cannot be read ({error})")
        if digest != wanted["sha256"]:
            return Damage(path, f"{name} has other bytes than the manifest says")
    return None


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | Damage:
    """Read once, verify those very bytes, then make tensors of them."""
    try:
        contents: dict[str, bytes | None] = {name: (path / name).read_bytes() for name in (TENSORS, STATE)}
    except OSError as error:
        return Damage(path, f"cannot be read ({error})")
    damage = _check(path, contents)
    if damage is not None:
        return damage
    try:
        tensors, state = parse_tensors(contents[TENSORS] or b""), json.loads(contents[STATE] or b"")
    except (SafetensorError, ValueError) as error:  # written wrong: the digests are right
        return Damage(path, f"cannot be parsed ({error})")
    return tensors, state
