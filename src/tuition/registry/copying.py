"""Copy a downloaded model into the workspace: weights, settings and texts, no code, and nothing that a link
outside the folder names.
"""

import shutil
from pathlib import Path

from tuition.core.errors import ModelError

_SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".model", ".gguf", ".md"}
_NAMES = ("LICENSE", "NOTICE")


def files_of(source: Path) -> list[Path]:
    """The files of the model: the file itself, or the files of a folder that may be read.

    Code and pickles in the folder are not copied. Raises: ModelError for links to outside the folder (a
    snapshot of the Hugging Face cache may link to its own `blobs`), and for a folder without weights.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ModelError(source, "does not exist", way_out="check the path")
    root = source.resolve()
    roots = [root, *([root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [])]
    found = []
    for path in sorted(source.iterdir()):
        if path.suffix.lower() not in _SUFFIXES and not path.name.startswith(_NAMES):
            continue
        target = path.resolve()
        if not any(target.is_relative_to(allowed) for allowed in roots):
            raise ModelError(path, "is a link to outside the folder", way_out="replace it by the file itself")
        if target.is_file():
            found.append(path)
    if not any(path.suffix.lower() in (".safetensors", ".gguf") for path in found):
        raise ModelError(source, "has no .safetensors and no .gguf file", way_out="give a model folder")
    return found


def copy_model(source: Path, target: Path, *, move: bool = False) -> None:
    """Copy or move the files of `source` into the folder `target`, which exists."""
    for path in files_of(source):
        (shutil.move if move else shutil.copyfile)(path, target / path.name)
