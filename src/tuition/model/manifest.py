"""`tuition.json`: what a published folder holds, with the digest of each of its files. No torch.

In: a folder and what is known of it.  Out: the file, and later the proof that nothing in the folder was
changed since.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuition.core.durable import file_digest, write_json
from tuition.core.errors import ModelError
from tuition.model.mapped import MappedFile

MANIFEST = "tuition.json"
MANIFEST_FORMAT = 1

_READ_SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".model"}


def write_manifest(folder: Path, manifest: Mapping[str, Any], digest: str) -> None:
    """Write `tuition.json` beside the files that are there:
    what came in, the digest of the weights and of each file.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}
    table = {**manifest, "format": MANIFEST_FORMAT, "weights_digest": digest, "files": files}
    write_json(folder / MANIFEST, table)


def verify_manifest(
    folder: Path, manifest: Mapping[str, Any], mapped: Callable[[str], MappedFile], weights: bool = True
) -> None:
    """Raises: ModelError unless every file is as it was published, and no file that we would read is beside
    them. Without `weights` the safetensors files are not read."""
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not all(isinstance(digest, str) for digest in listed.values()):
        raise ModelError(folder / MANIFEST, "lists no digests of files", way_out="publish the model again")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _READ_SUFFIXES and path.name != MANIFEST and path.name not in listed:
            raise ModelError(
                path, f"is not listed in {MANIFEST}", way_out="remove it, or publish the model again"
            )
    for name, digest in listed.items():
        if not weights and name.endswith(".safetensors"):
            continue
        if not (folder / name).exists():
            raise ModelError(
                folder / name, f"is listed in {MANIFEST} and missing", way_out="restore the file"
            )
        found = mapped(name).digest()
        if found != digest:
            raise ModelError(
                folder / name,
                f"was changed after the model was published (SHA-256 {found[:12]}..., "
                f"{MANIFEST} says {digest[:12]}...)",
                way_out="restore the file, or publish the model again",
            )
