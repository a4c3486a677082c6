"""Models by name and version: what is published is found, what is removed stays billed, names cannot
leave."""

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from tuition.books.books import open_books
from tuition.books.schema import evaluations
from tuition.core.errors import ModelError, NotFoundError, SettingsError
from tuition.core.records import Score
from tuition.core.workspace import Workspace
from tuition.registry.lineage import Lineage
from tuition.registry.names import check_name, parse_reference
from tuition.registry.paths import to_path, to_text
from tuition.registry.registry import Registry

DIGEST = "ab" * 32
TRAVERSALS = ["../x", "..", "a/../b", "a\\b", "/etc/passwd", "a\x00b", "", ".hidden", "A", "a b", "a..b",
              "a/b", "x" * 65, "~", "%2e%2e", "a\n", "名"]  # fmt: skip


@pytest.fixture
def registry(workspace: Workspace, database: str) -> Iterator[Registry]:
    with open_books(workspace) as books:
        yield Registry(workspace, books)


def write_folder(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "tuition.json").write_text(json.dumps({"weights_digest": DIGEST, "files": {}}))


def test_a_published_model_is_found_by_name_and_by_version(registry: Registry) -> None:
    lineage = Lineage(corpus_digest="c", run_id="r1", evaluation={"bits_per_byte": 1.8}, parent="base@1")
    first = registry.publish("poet", write_folder, lineage)
    second = registry.publish("poet", write_folder)
    assert (first.reference, second.reference) == ("poet@1", "poet@2")
    assert registry.get("poet") == second
    assert registry.get("poet@1") == first
    assert registry.get("poet@1").lineage == lineage
    assert registry.get("poet").digest == DIGEST
    assert [version.reference for version in registry.list()] == ["poet@2", "poet@1"]
    assert registry.resolve("poet") == second.path == registry.workspace.models / "poet" / "2"


def test_an_unknown_name_is_refused_with_the_names_that_exist(registry: Registry) -> None:
    registry.publish("poet", write_folder)
    with pytest.raises(NotFoundError, match="did you mean 'poet'"):
        registry.get("poett")
    with pytest.raises(NotFoundError, match="poet@1"):
        registry.get("poet@7")
    with pytest.raises(NotFoundError):
        registry.resolve("no/such/path")
    with pytest.raises(NotFoundError):
        registry.resolve("")  # and not the current folder


def test_a_removed_version_is_gone_from_disk_and_its_number_is_never_used_again(registry: Registry) -> None:
    registry.publish("poet", write_folder)
    second = registry.publish("poet", write_folder)
    registry.remove("poet@2")
    assert not second.path.exists()
    assert registry.get("poet").version == 1
    assert registry.publish("poet", write_folder).version == 3
    assert [version.version for version in registry.remove("poet")] == [3, 1]
    assert registry.list() == ()
    assert registry.publish("poet", write_folder).version == 4


def test_a_linked_model_stays_where_it_is_and_a_copied_one_does_not_need_its_source(
    registry: Registry, tmp_path: Path
) -> None:
    source = tmp_path / "theirs"
    write_folder(source)
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    linked = registry.add("theirs", source, digest=DIGEST, files="linked")
    copied = registry.add("theirs", source, digest=DIGEST)
    assert (linked.path, linked.owned, linked.version) == (source, False, 1)
    assert sorted(path.name for path in copied.path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tuition.json",
    ]
    assert copied.lineage.source == str(source)
    registry.remove("theirs")
    assert source.is_dir()
    assert not copied.path.exists()


BILL = {"wall_ns": 7, "energy_uj": None, "energy_method": None, "cost_nusd": 3}
LINEAGE = {"run_id": "r1", "settings": "steps = 3\n", "corpus_digest": "c", "evaluation": {"mean": 1.8}}


def write_manifest(folder: Path, **changes: object) -> Path:
    table = {"weights_digest": DIGEST, "files": {}, "lineage": LINEAGE, "bill": BILL} | changes
    (folder / "tuition.json").write_text(json.dumps(table))
    return folder


@pytest.mark.parametrize("files", ["copied", "linked", "moved"])
def test_a_model_of_ours_keeps_its_lineage_and_its_bill(
    registry: Registry, tmp_path: Path, files: Literal["copied", "linked", "moved"]
) -> None:
    source = tmp_path / "ours"
    write_folder(source)
    added = registry.add("ours", write_manifest(source), digest=DIGEST, files=files)
    assert added.lineage == Lineage(**LINEAGE, bill=BILL, source=str(source))
    assert registry.get("ours").lineage == added.lineage


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"weights_digest": "cd" * 32}, "belongs to other weights"),
        ({"lineage": {"run_id": 7}}, "run_id is not text"),
        ({"lineage": {"settings": "\x1b[2J"}}, "settings is not text that can be shown"),
        ({"lineage": [1]}, "cannot be read"),
        ({"bill": "much"}, "bill is not a table"),
        ({"bill": BILL | {"cost_nusd": 0.5}}, r"cost_nusd is 0\.5, wanted an integer"),
        ({"bill": BILL | {"wall_ns": None}}, "wall_ns is None"),
        ({"bill": {}}, "cannot be read"),
    ],
)
def test_a_lineage_that_cannot_be_its_own_is_refused(
    registry: Registry, tmp_path: Path, changes: dict, problem: str
) -> None:
    source = tmp_path / "ours"
    write_folder(source)
    with pytest.raises(ModelError, match=problem):
        registry.add("ours", write_manifest(source, **changes), digest=DIGEST)
    assert registry.list() == ()


def test_a_gguf_file_can_be_added_and_keeps_its_name(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF")
    version = registry.add("small", file, digest=DIGEST)
    assert version.path == registry.workspace.models / "small" / "1" / "small.gguf"
    registry.remove("small@1")
    assert not version.path.parent.exists()
    assert file.exists()


def test_a_link_out_of_the_folder_is_not_copied(registry: Registry, tmp_path: Path) -> None:
    source = tmp_path / "theirs"
    write_folder(source)
    (tmp_path / "secret.txt").write_text("secret")
    (source / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ModelError, match="link to outside the folder"):
        registry.add("theirs", source, digest=DIGEST)


def test_a_folder_without_weights_is_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="has no"):
        registry.add("empty", tmp_path / "empty", digest=DIGEST)
    with pytest.raises(ModelError, match="does not exist"):
        registry.add("empty", tmp_path / "nowhere", digest=DIGEST)


def test_a_failed_write_leaves_no_version(registry: Registry) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        registry.publish("poet", fail)
    assert registry.list() == ()
    assert list(registry.workspace.models.glob("*/*")) == []
    assert registry.publish("poet", write_folder).path.is_dir()


def test_two_publishers_of_one_name_get_two_versions(registry: Registry) -> None:
    barrier = threading.Barrier(2)

    def write(path: Path) -> None:
        barrier.wait(10)  # both have their number before either has written
        write_folder(path)

    threads = [threading.Thread(target=registry.publish, args=("poet", write)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(version.version for version in registry.list()) == [1, 2]


def test_a_moved_workspace_finds_its_models_and_a_copy_never_touches_the_original(tmp_path: Path) -> None:
    """Also a model that was left where it is, in the workspace or beside it."""
    root, inside, beside = tmp_path / "first", tmp_path / "first" / "mine" / "raw", tmp_path / "beside"
    write_folder(inside)
    write_folder(beside)
    with open_books(Workspace(root)) as books:
        registry = Registry(Workspace(root), books)
        registry.publish("poet", write_folder)
        registry.add("small", inside, digest=DIGEST, files="linked")
        registry.add("other", beside, digest=DIGEST, files="linked")
    shutil.copytree(root, tmp_path / "copy")
    root.rename(tmp_path / "moved")
    for name in ("moved", "copy"):
        workspace = Workspace(tmp_path / name)
        with open_books(workspace) as books:
            registry = Registry(workspace, books)
            assert registry.get("poet").path == workspace.models / "poet" / "1"
            assert registry.get("small").path == workspace.root / "mine" / "raw"
            assert registry.get("other").path == beside
            assert all(version.path.is_dir() for version in registry.list())
    with open_books(Workspace(tmp_path / "copy")) as books:
        registry = Registry(Workspace(tmp_path / "copy"), books)
        registry.remove("poet")
        registry.publish("poet", write_folder)
    assert (tmp_path / "moved" / "models" / "poet" / "1").is_dir()
    assert sorted(path.name for path in (tmp_path / "moved" / "models" / "poet").iterdir()) == ["1"]


def test_a_workspace_behind_a_link_is_one_workspace(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_folder(tmp_path / "real" / "raw")
    for source in (tmp_path / "link" / "raw", tmp_path / "real" / "raw"):
        assert to_text(source, Workspace(tmp_path / "link")) == "raw"


@pytest.mark.parametrize("name", ["plain", "caf\udce9", "ünï", "a%20b", "file:x", "a\nb", "nul%00", "~"])
@pytest.mark.parametrize("is_inside", [True, False])
def test_every_path_can_be_kept(tmp_path: Path, name: str, is_inside: bool) -> None:
    workspace = Workspace(tmp_path / "home")
    path = (workspace.root if is_inside else tmp_path) / name / "model.gguf"
    text = to_text(path, workspace)
    assert text.isprintable() or "\n" in text
    text.encode("utf-8")
    assert to_path(text, workspace) == path
    moved = Workspace(tmp_path / "elsewhere")
    assert to_path(text, moved) == (moved.root / name / "model.gguf" if is_inside else path)


def test_scores_are_kept_with_the_version(registry: Registry) -> None:
    version = registry.publish("poet", write_folder)
    score = Score("heldout bits per byte", 1.83, 0.01, "bits per byte", "windows of 32", 12, 5_000, 900)
    registry.record_score(version, score)
    (found,) = registry.scores(version)
    assert found.created_unix_ns
    assert replace(found, created_unix_ns=None) == score


def test_a_score_of_before_its_method_was_recorded_counts_bytes_and_no_items(
    registry: Registry,
) -> None:
    version = registry.publish("poet", write_folder)
    registry.record_score(version, Score("t", 1.0, None, "u", "m", 5_000))
    old = update(evaluations).values(details_json="{}")
    registry.books.write_now(lambda connection: connection.execute(old).rowcount)
    (found,) = registry.scores(version)
    assert (found.num_items, found.num_bytes, found.num_tokens) == (None, 5_000, None)


def test_hostile_names_are_refused_wherever_a_name_is_taken(registry: Registry) -> None:
    for name in TRAVERSALS:
        with pytest.raises(SettingsError):
            registry.publish(name, write_folder)
        with pytest.raises(NotFoundError):
            registry.get(name)
        with pytest.raises(NotFoundError):
            registry.remove(name)


OPENED: list[str] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and WATCHING:
        OPENED.append(os.fspath(arguments[0]) if isinstance(arguments[0], (str, os.PathLike)) else "")


WATCHING: list[bool] = []
sys.addaudithook(_watch)


def test_no_name_opens_a_file_outside_the_workspace(registry: Registry) -> None:
    """RELIABILITY S6: names are looked up in the table."""
    registry.publish("poet", write_folder)
    root = str(registry.workspace.root)

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=80) | st.from_regex(r"(\.\./|/|%2e|[a-z.]){1,12}"))
    def look_up(name: str) -> None:
        OPENED.clear()
        WATCHING.append(True)
        try:
            registry.get(name)
        except NotFoundError:
            pass
        finally:
            WATCHING.clear()
        assert [path for path in OPENED if path and not path.startswith(root)] == []

    look_up()


@settings(deadline=None)
@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True), st.integers(1, 10**8))
def test_references_are_read_as_they_are_written(name: str, version: int) -> None:
    assert check_name(name) == name
    assert parse_reference(f"{name}@{version}") == (name, version)
    assert parse_reference(name) == (name, None)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["corpus_digest", "settings", "parent", "run_id"]), st.text()))
def test_lineage_survives_its_text(values: dict[str, str]) -> None:
    lineage = Lineage(**values)
    assert Lineage.from_json(lineage.to_json()) == lineage
