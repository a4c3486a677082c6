"""Downloads from the Hugging Face hub, through the optional library `huggingface_hub`.

In: a reference.  Out: files in a folder, each checked against the digest that the hub gives. A download that
was interrupted goes on where it stopped. Nothing is sent but the requests for these files.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tuition.core.errors import ModelError
from tuition.core.progress import Progress, Task
from tuition.core.units import format_bytes
from tuition.registry.hub_files import HubReference, choose_files

_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_XET": "1", "HF_HUB_VERBOSITY": "error", "DO_NOT_TRACK": "1",
}  # fmt: skip
"""Settings of the library that hold unless the user has set others; it reads them when it is imported."""
_ROOM_BYTES = 64 * 2**20
"""Left free on the disk."""
_KEPT_BYTES = 1 << 17
"""Written at once: a connection that ends loses less than this."""
_CHUNK = 1 << 20
_COMMIT = re.compile("[0-9a-f]{40,64}")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    name: str
    num_bytes: int
    sha256: str | None
    """Of large files."""
    git_sha1: str | None
    """Of its git blob, for the others."""


@dataclass(frozen=True)
class HubModel:
    """A model at one commit."""

    reference: HubReference
    commit: str
    files: tuple[HubFile, ...]

    @property
    def source(self) -> str:
        """What the lineage says: `hf:ORG/NAME@COMMIT`, with the GGUF file where one was chosen."""
        return str(HubReference(self.reference.repository, self.commit, self.reference.file))


def look_up(reference: HubReference) -> HubModel:
    """Ask the hub for the commit and the files. Raises: ModelError."""
    hub = _library(reference)
    with _explained(reference, hub):
        api = hub.HfApi(endpoint=_endpoint())
        info = api.model_info(
            reference.repository, revision=reference.revision, files_metadata=True, timeout=30
        )
    if not _COMMIT.fullmatch(str(info.sha)):  # it names a folder here
        problem = f"could not be read: {_endpoint()} answered with the commit {str(info.sha)[:80]!r}"
        raise ModelError(str(reference), problem, way_out="check HF_ENDPOINT")
    found = {entry.rfilename: entry for entry in info.siblings or ()}
    files = []
    for name in choose_files(reference, list(found)):
        entry = found[name]
        sha256 = entry.lfs.sha256 if entry.lfs is not None else None
        files.append(HubFile(name, entry.size or 0, sha256, entry.blob_id if sha256 is None else None))
    return HubModel(reference, info.sha, tuple(files))


def download(model: HubModel, folder: Path, progress: Progress) -> Mapping[str, str]:
    """Get the files of `model` into `folder`, and return their SHA-256 by name. Raises: ModelError."""
    hub = _library(model.reference)
    folder.mkdir(parents=True, exist_ok=True)
    missing = {file: file.num_bytes - _num_there(folder, file) for file in model.files}
    need, total = sum(missing.values()), sum(file.num_bytes for file in model.files)
    there = f", {format_bytes(total - need)} of it are here already" if need < total else ""
    progress.say(
        f"{model.source}: {len(model.files)} files, {format_bytes(total)}, from {_endpoint()}{there}"
    )
    free = shutil.disk_usage(folder).free
    if need and free < need + _ROOM_BYTES:
        raise _no_room(model.reference, need, free)
    with (
        _explained(model.reference, hub),
        progress.task("download", total, "B") as task,
    ):
        task.advance(total - need)
        return {file.name: _fetch(hub, model, file, folder, task) for file in model.files}


def _fetch(hub: ModuleType, model: HubModel, file: HubFile, folder: Path, task: Task) -> str:
    """One file, from where an earlier download stopped; its SHA-256."""
    target, partial = folder / Path(file.name).name, _partial(folder, file)
    if not target.exists():
        url = hub.hf_hub_url(
            model.reference.repository, file.name, revision=model.commit, endpoint=_endpoint()
        )
        headers = hub.utils.build_hf_headers()
        with partial.open("ab") as output:
            hub.file_download.http_get(
                url, output, resume_size=output.tell(), headers=headers, expected_size=file.num_bytes,
                displayed_filename=file.name, _tqdm_bar=_Bar(task, file.name),
            )  # fmt: skip
            output.flush()
            os.fsync(output.fileno())
    sha256, git_sha1 = _digests(partial if partial.exists() else target, file.num_bytes)
    if (file.sha256 or sha256) != sha256 or (file.git_sha1 or git_sha1) != git_sha1:
        partial.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        raise ModelError(
            str(model.reference), f"{file.name} came with another content than the hub says (digests differ)",
            way_out="download it again",
        )  # fmt: skip
    if partial.exists():
        partial.rename(target)
    return sha256


class _Bar:
    """What the library takes for its progress bar."""

    def __init__(self, task: Task, name: str) -> None:
        self._task, self._name = task, name

    def update(self, num_bytes: float) -> None:
        self._task.advance(num_bytes, self._name)


def _partial(folder: Path, file: HubFile) -> Path:
    return folder / f"{Path(file.name).name}.part"


def _num_there(folder: Path, file: HubFile) -> int:
    if (folder / Path(file.name).name).exists():
        return file.num_bytes
    partial = _partial(folder, file)
    if not partial.exists():
        return 0
    if partial.stat().st_size > file.num_bytes:
        partial.unlink()  # of no use: it would be refused in the end
        return 0
    return partial.stat().st_size


def _digests(path: Path, num_bytes: int) -> tuple[str, str]:
    """SHA-256, and the SHA-1 that git has for these bytes."""
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % num_bytes, usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            sha256.update(chunk)
            sha1.update(chunk)
    return sha256.hexdigest(), sha1.hexdigest()


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _library(reference: HubReference) -> ModuleType:
    """The library, imported only when a model on the hub was named. Raises: ModelError."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError:
        raise ModelError(
            str(reference), "needs huggingface_hub, which is not installed",
            way_out="install it: pip install 'tuition[hub]'",
        ) from None  # fmt: skip
    constants: Any = huggingface_hub.constants
    constants.HF_HUB_DISABLE_TELEMETRY = True  # also where another library imported it first
    constants.DOWNLOAD_CHUNK_SIZE = _KEPT_BYTES
    huggingface_hub.utils.logging.set_verbosity_error()
    return huggingface_hub


@contextmanager
def _explained(reference: HubReference, hub: ModuleType) -> Iterator[None]:
    """Errors of the library as one line each. Raises: ModelError."""
    try:
        yield
    except ModelError:
        raise
    except KeyboardInterrupt:
        raise
    except Exception as error:
        problem, way_out = _explain(reference, hub, error)
        raise ModelError(str(reference), problem, way_out=way_out) from error


def _explain(reference: HubReference, hub: ModuleType, error: Exception) -> tuple[str, str]:
    """What happened, and what to do."""
    errors, status = hub.errors, _status(error)
    page = f"{_endpoint()}/{reference.repository}"
    if isinstance(error, errors.GatedRepoError):
        return "is gated", f"accept its terms at {page}, then set HF_TOKEN to a token of that account"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {reference.revision!r}", f"see {page}/tree/main for those it has"
    if isinstance(error, errors.DisabledRepoError):
        return "is disabled on the hub", "use another model"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "is not on the hub, or private", "check the name; for a private one set HF_TOKEN"
    if status == 401:
        return "was refused: the hub does not accept the token", "correct or unset HF_TOKEN"
    if status == 403:
        return "was refused: this account or token may not read it", f"ask for access at {page}"
    if status is not None:
        return f"could not be read: {_endpoint()} answered {status}", "try again later"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "does not fit: the disk is full", "free some space; the same command goes on from here"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "was not downloaded: HF_HUB_OFFLINE is set", "unset it, or name a model that is here"
    told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    return (
        f"could not be read from {_endpoint()} ({told[:200]})",
        "check the network; the same command goes on from here",
    )


def _status(error: Exception) -> int | None:
    response: Any = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _no_room(reference: HubReference, need: int, free: int) -> ModelError:
    return ModelError(
        str(reference), f"needs {format_bytes(need)} on the disk, {format_bytes(free)} are free",
        way_out="free some space, or set TUITION_HOME to a folder on another disk",
    )  # fmt: skip
