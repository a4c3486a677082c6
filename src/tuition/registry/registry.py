"""The models of a workspace by name and version. Rows live in the books, folders in `workspace.models`.

A folder is complete and durable before its row counts; a row is marked removed before its folder goes. So a
crash leaves at most a folder that no row names, never a row without its folder. Paths inside the workspace
are stored relative to it.
"""

import json
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, func, insert, select, tuple_, update

from tuition.books.books import Books
from tuition.books.journal import note_stored
from tuition.books.schema import evaluations, models
from tuition.books.scores import score_of, write_score
from tuition.core.durable import publish_folder
from tuition.core.errors import ModelError, NotFoundError, SettingsError
from tuition.core.progress import LineProgress, Progress
from tuition.core.records import Score
from tuition.core.workspace import Workspace
from tuition.registry.copying import copy_model, files_of
from tuition.registry.hub import fetch
from tuition.registry.hub_files import parse_hub
from tuition.registry.lineage import MANIFEST, Lineage, read_lineage
from tuition.registry.names import check_name, parse_reference
from tuition.registry.paths import to_path, to_text

NO_MODELS = "the workspace has none; run: tuition train FILE --name NAME, or: tuition models add NAME PATH"
"""What an error says where no model is registered."""


@dataclass(frozen=True)
class Version:
    """One version of a named model."""

    name: str
    version: int
    """Counted from 1 within a name; never used twice, not even after removal."""
    path: Path
    """Folder, or GGUF file."""
    digest: str
    """SHA-256 of its weights, see model/digest."""
    created_unix_ns: int
    lineage: Lineage
    owned: bool
    """The files are inside the workspace and go when the version is removed."""

    @property
    def reference(self) -> str:
        """`name@version`"""
        return f"{self.name}@{self.version}"

    @property
    def kind(self) -> Literal["model", "adapter"]:
        """An adapter is used together with its base: see `Registry.base_of`."""
        return self.lineage.kind or "model"


class Registry:
    """See the module."""

    def __init__(self, workspace: Workspace, books: Books) -> None:
        self.workspace, self.books = workspace, books

    def publish(self, name: str, write: Callable[[Path], object], lineage: Lineage | None = None) -> Version:
        """Let `write` make the next version's folder, then register it.

        `write` gets a path that does not exist and must leave a whole folder with `tuition.json` there in one
        step, as `model.save.save_model` does. Raises: SettingsError for the name; whatever `write` raises.
        """
        folder = self._next_folder(check_name(name))
        write(folder)
        try:
            digest = str(json.loads((folder / MANIFEST).read_bytes())["weights_digest"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                folder, f"has no {MANIFEST} with a digest", way_out="write it with save_model"
            ) from error
        return self._register(name, folder, folder, digest, lineage or Lineage(), owned=True)

    def add(
        self,
        name: str,
        source: Path,
        *,
        digest: str,
        lineage: Lineage | None = None,
        files: Literal["copied", "moved", "linked"] = "copied",
    ) -> Version:
        """Register a model that exists: a Hugging Face folder or a GGUF file.

        `digest`: of its weights (`open_model(source).digest()`, which also checks the files). `files`: they
        are copied or moved into the workspace, or left where they are. `lineage`: left out, it is what
        the model's own `tuition.json` says, see `read_lineage`.
        Raises: SettingsError for the name; ModelError when there is no model at `source`, or its
        `tuition.json` is not its own.
        """
        check_name(name)
        source = source.expanduser().absolute()
        found = files_of(source)
        lineage = lineage or read_lineage(source, digest)
        folder = self._next_folder(name)
        if files == "linked":
            return self._register(name, folder, source, digest, lineage, owned=False)
        publish_folder(folder, lambda staging: copy_model(source, staging, move=files == "moved"))
        path = folder / found[0].name if source.is_file() else folder
        return self._register(name, folder, path, digest, lineage, owned=True)

    def list(self) -> tuple[Version, ...]:
        """Every version, by name and then the latest first."""
        query = select(models).where(models.c.removed_unix_ns.is_(None))
        query = query.order_by(models.c.name, models.c.version.desc())
        rows = self.books.read(lambda connection: connection.execute(query).all())
        return tuple(self._version(row) for row in rows)

    def get(self, reference: str) -> Version:
        """`name` (its latest version) or `name@version`. Raises: NotFoundError, with the names that exist."""
        parsed = parse_reference(reference)
        if parsed is not None:
            query = select(models).where(models.c.removed_unix_ns.is_(None), models.c.name == parsed.name)
            if parsed.version is not None:
                query = query.where(models.c.version == parsed.version)
            query = query.order_by(models.c.version.desc()).limit(1)
            row = self.books.read(lambda connection: connection.execute(query).first())
            if row is not None:
                return self._version(row)
        raise NotFoundError(
            "model", reference[:120], self._known(parsed.name if parsed else None), if_none=NO_MODELS
        )

    def resolve(self, name_or_path: str | Path) -> Path:
        """The path of what `find` finds."""
        found = self.find(name_or_path)
        return found.path if isinstance(found, Version) else found

    def find(self, name_or_path: str | Path, progress: Progress | None = None) -> Version | Path:
        """A registered version, or a path that exists. `hf:ORG/NAME[:FILE][@REVISION]` is downloaded from the
        Hugging Face hub and registered, unless it is here.

        A name wins over a file of the same name; a separator makes it a path. For people at a command line
        only: what comes over the network goes through `get`. Raises: NotFoundError, ModelError.
        """
        text = str(name_or_path)
        on_hub = parse_hub(text)
        if on_hub is not None:
            return fetch(self, on_hub, progress or LineProgress())
        if parse_reference(text) is not None:
            try:
                return self.get(text)
            except NotFoundError:
                if not Path(text).exists():
                    raise
        path = Path(text).expanduser()
        if text and path.exists():  # an empty path is the current folder
            return path
        raise NotFoundError("model or path", text[:200], self._known(None), if_none=NO_MODELS)

    def versions(self, reference: str) -> tuple[Version, ...]:
        """`name@version` alone, or every version of `name`, the latest first. Raises: NotFoundError."""
        found, parsed = self.get(reference), parse_reference(reference)
        if parsed is not None and parsed.version is not None:
            return (found,)
        return tuple(version for version in self.list() if version.name == found.name)

    def base_of(self, adapter: Version) -> Version:
        """The version that an adapter is used with: its parent, or another one with the same weights.

        Raises: ModelError where there is none, or the parent's name now stands for other weights.
        """
        parent, digest = adapter.lineage.parent, adapter.lineage.parent_digest
        found = [version for version in self.list() if version.kind == "model"]
        named = [version for version in found if version.reference == parent]
        same = [version for version in found if digest is not None and version.digest == digest]
        for version in (*named, *same):
            if digest is None or version.digest == digest:
                return version
        problem = f"is an adapter of {parent}, which is not registered"
        if named:
            problem = f"was trained with other weights than those of {parent} (digests differ)"
        weights = "" if digest is None else f" with the weights {digest[:12]}..."
        way_out = f"add its base{weights}: tuition models add NAME PATH"
        raise ModelError(adapter.reference, problem, way_out=way_out)

    def adapters_needing(self, bases: Collection[Version]) -> tuple[Version, ...]:
        """The adapters that have no base left once these versions are removed."""
        gone = {version.reference for version in bases}
        kept = {version.digest for version in self.list() if version.reference not in gone}
        needing = []
        for version in self.list():
            if version.kind == "adapter" and version.reference not in gone:
                parent, digest = version.lineage.parent, version.lineage.parent_digest
                is_theirs = parent in gone or any(base.digest == digest for base in bases)
                if is_theirs and (digest is None or digest not in kept):
                    needing.append(version)
        return tuple(needing)

    def remove(self, reference: str, *, with_adapters: bool = False) -> tuple[Version, ...]:
        """Remove `name@version`, or with `name` alone every version of it; bills stay readable.

        Files inside the workspace are deleted, linked ones stay. Adapters that have no base without them go
        too where that is asked for. Returns what was removed.
        Raises: NotFoundError; SettingsError where adapters need it and are to stay.
        """
        gone = self.versions(reference)
        needing = self.adapters_needing(gone)
        if needing and not with_adapters:
            listed = ", ".join(version.reference for version in needing)
            wanted = f"a model without adapters: remove {listed} first"
            raise SettingsError("model", got=reference, wanted=wanted)
        gone += needing
        now = time.time_ns()
        marked = (
            update(models)
            .where(tuple_(models.c.name, models.c.version).in_([(v.name, v.version) for v in gone]))
            .values(removed_unix_ns=now)
            .returning(models.c.id)
        )
        self.books.write_now(
            lambda connection: note_stored(connection, models, *connection.execute(marked).scalars())
        )
        for version in gone:
            self._delete_files(version)
        return gone

    def record_score(self, version: Version, score: Score) -> None:
        """Keep a score of a version, durably."""
        self.books.write_now(lambda connection: write_score(connection, version.name, version.version, score))

    def scores(self, version: Version) -> tuple[Score, ...]:
        """Scores of a version, the latest first."""
        query = (
            select(evaluations)
            .where(evaluations.c.model == version.name, evaluations.c.version == version.version)
            .order_by(evaluations.c.created_unix_ns.desc())
        )
        rows = self.books.read(lambda connection: connection.execute(query).mappings().all())
        return tuple(score_of(row) for row in rows)

    def _known(self, name: str | None) -> tuple[str, ...]:
        """Names for an error; with versions where the name exists and the version does not."""
        found = self.list()
        if any(version.name == name for version in found):
            return tuple(version.reference for version in found if version.name == name)
        return tuple(sorted({version.name for version in found}))

    def _next_folder(self, name: str) -> Path:
        """Where the next version goes. Nothing is there, and no other process will get the same number.

        The number is taken by a row that is marked as removed until `_register` fills it in.
        """
        parent = self.workspace.models / name
        numbers = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
        highest = select(func.max(models.c.version)).where(models.c.name == name)

        def reserve(connection: Connection) -> int:
            number = max([connection.execute(highest).scalar() or 0, *numbers]) + 1
            now = time.time_ns()
            row = {"name": name, "version": number, "path": "", "digest": "", "lineage_json": "{}"}
            row |= {"created_unix_ns": now, "removed_unix_ns": now}
            key = connection.execute(insert(models).values(**row).returning(models.c.id)).scalar_one()
            note_stored(connection, models, key)
            return number

        return parent / str(self.books.write_now(reserve))

    def _register(
        self, name: str, folder: Path, path: Path, digest: str, lineage: Lineage, owned: bool
    ) -> Version:
        """Fill in the row of the version that `folder` stands for."""
        filled = (
            update(models)
            .where(models.c.name == name, models.c.version == int(folder.name))
            .values(
                path=to_text(path, self.workspace),
                digest=digest,
                created_unix_ns=time.time_ns(),
                removed_unix_ns=None,
                lineage_json=lineage.to_json(),
                owned=owned,
            )
            .returning(models)
        )

        def fill(connection: Connection) -> Row[Any]:
            row = connection.execute(filled).one()
            note_stored(connection, models, row.id)
            return row

        return self._version(self.books.write_now(fill))

    def _delete_files(self, version: Version) -> None:
        """Delete a version's own folder; nothing outside of `workspace.models` is ever touched."""
        folder = self.workspace.models / version.name / str(version.version)
        if version.owned and version.path.is_relative_to(folder):
            shutil.rmtree(folder, ignore_errors=True)
            if folder.parent.is_dir() and not any(folder.parent.iterdir()):
                folder.parent.rmdir()

    def _version(self, row: Row[Any]) -> Version:
        return Version(
            name=row.name,
            version=row.version,
            path=to_path(row.path, self.workspace),
            digest=row.digest,
            created_unix_ns=row.created_unix_ns,
            lineage=Lineage.from_json(row.lineage_json),
            owned=row.owned,
        )
