"""Models on the Hugging Face hub become versions of the registry.

In: `hf:ORG/NAME[:FILE][@REVISION]`.  Out: a `Version`, downloaded if its commit is not here yet.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tuition.core.errors import ModelError
from tuition.core.lock import FileLock
from tuition.core.progress import Progress
from tuition.model.folder import open_model
from tuition.registry.hub_download import download, look_up
from tuition.registry.hub_files import HubReference
from tuition.registry.lineage import Lineage
from tuition.registry.names import as_name

if TYPE_CHECKING:
    from tuition.registry.registry import Registry, Version

_LONGEST_S = 24 * 3600.0
"""How long another process may take to download the same model."""


def digest_of(path: Path) -> str:
    """The digest of a model that opens, with its tokenizer. Raises: ModelError."""
    folder = open_model(path)
    folder.tokenizer()
    return folder.digest()


def fetch(
    registry: "Registry",
    reference: HubReference,
    progress: Progress,
    name: str | None = None,
    check: Callable[[Path], str] = digest_of,
) -> "Version":
    """The version of that model, under `name` or one made of the repository's name.

    Where the hub cannot be asked, the latest version that came from there is taken, and it is said.
    Raises: ModelError in one line for whatever is in the way; what was downloaded until then is kept, and
    used the next time.
    """
    try:
        model = look_up(reference)
    except ModelError as error:
        known = _known(registry, reference)
        if known is None or name is not None:
            raise
        progress.say(f"{error}; {known.reference} from an earlier download is used")
        return known
    folder = registry.workspace.downloads / f"{reference.repository.replace('/', '--')}--{model.commit}"
    with FileLock(folder.with_name(f"{folder.name}.lock"), timeout_s=_LONGEST_S):
        here = (version for version in registry.list() if version.lineage.source == model.source)
        if name is None and (version := next(here, None)) is not None:
            return version
        files = download(model, folder, progress)
        _say_own_code(folder, progress)
        path = folder if len(files) > 1 else folder / next(iter(files))
        version = registry.add(
            name or _name_for(registry, reference), path, digest=check(path), files="moved",
            lineage=Lineage(source=model.source, files=dict(files)),
        )  # fmt: skip
        shutil.rmtree(folder)
    progress.say(f"kept as {version.reference}")
    return version


def _known(registry: "Registry", reference: HubReference) -> "Version | None":
    """The latest version that came from there."""
    begin = str(HubReference(reference.repository, None, reference.file)) + "@"
    found = [
        version for version in registry.list()
        if (source := version.lineage.source or "").startswith(begin)
        and source.removeprefix(begin).startswith(reference.revision or "")
    ]  # fmt: skip
    return max(found, key=lambda version: version.created_unix_ns, default=None)


def _name_for(registry: "Registry", reference: HubReference) -> str:
    """A name that stands for no other model."""
    organisation, repository = reference.repository.split("/")
    stems = [repository, f"{repository}-{reference.file}"] if reference.file else [repository]
    names = [as_name(stem) for stem in (stems[-1], f"{organisation}-{stems[-1]}")]
    begin = str(HubReference(reference.repository, None, reference.file)) + "@"
    for name in names:
        others = [version for version in registry.list() if version.name == name]
        if all((version.lineage.source or "").startswith(begin) for version in others):
            return name
    raise ModelError(
        str(reference), f"other models are called {' and '.join(names)}",
        way_out=f"give it a name: tuition models add NAME {reference}",
    )  # fmt: skip


def _say_own_code(folder: Path, progress: Progress) -> None:
    """A model may bring code of its own; it is not downloaded, and the model's architecture decides whether
    it opens here."""
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        try:
            own = json.loads(path.read_bytes()).get("auto_map") if path.is_file() else None
        except (ValueError, AttributeError):
            continue  # refused when the model is opened
        if own:
            progress.say(f"{path.name} names Python code (auto_map); it is not downloaded and not run")
