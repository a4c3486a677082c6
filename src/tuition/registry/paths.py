"""Where a model lies, as text for the books: relative to the workspace where it is inside.

So a workspace may be moved or copied, and a copy never leads to the files of its original. A path whose bytes
are not UTF-8 is written as a URI (`file:caf%E9/model.gguf`), which no database refuses.
"""

import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from tuition.core.workspace import Workspace

_URI = "file:"


def to_text(path: Path, workspace: Workspace) -> str:
    """How the books name `path`, which is absolute."""
    for inside, root in ((path, workspace.root), (path.resolve(), workspace.root.resolve())):
        if inside.is_relative_to(root):
            path = inside.relative_to(root)
            break
    text = path.as_posix()
    if text.startswith(_URI) or text.encode("utf-8", "replace") != os.fsencode(path):
        return _URI + quote_from_bytes(os.fsencode(path))
    return text


def to_path(text: str, workspace: Workspace) -> Path:
    """The path that the books name."""
    if text.startswith(_URI):
        text = os.fsdecode(unquote_to_bytes(text.removeprefix(_URI)))
    return workspace.root / text  # an absolute path stays as it is
