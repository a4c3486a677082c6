"""Models of the Hugging Face hub, against a small server on loopback that speaks its protocol."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hub_server import Hub, running_hub
from tuition.books.books import open_books
from tuition.core.errors import ModelError, SettingsError
from tuition.core.progress import SilentProgress
from tuition.core.workspace import Workspace
from tuition.model.decoder import Decoder
from tuition.model.folder import open_model
from tuition.model.save import save_model
from tuition.registry.hub import fetch
from tuition.registry.hub_files import HubReference, choose_files, parse_hub
from tuition.registry.registry import Registry, Version
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe

constants = pytest.importorskip("huggingface_hub.constants")
TINY = "Org/Tiny-Model"
SETTINGS = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
            "generation_config.json"}  # fmt: skip


class Told(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A model as a repository has it, with files that are never to be downloaded."""
    shape = ModelShape(vocab_size=300, hidden_size=256, num_layers=2, num_heads=2, num_kv_heads=2,
                       head_dim=128, mlp_size=512, context_length=64)  # fmt: skip
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("hub") / "model"
    save_model(folder, Decoder(shape).initialize(), shape, train_bpe(["To be, or not to be"], 300))
    content = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "tuition.json"}
    config = json.loads(content["config.json"]) | {"auto_map": {"AutoModel": "modeling_tiny.Tiny"}}
    others = {name: name.encode() * 500 for name in ("modeling_tiny.py", "pytorch_model.bin", "README.md",
              "onnx/model.onnx", "consolidated.safetensors", "training_args.bin")}  # fmt: skip
    return content | others | {"config.json": json.dumps(config).encode()}


@pytest.fixture
def hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as hub:
        hub.add(TINY, files)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # the suite's own guard stays
            monkeypatch.delenv(switch, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture
def registry(workspace: Workspace) -> Iterator[Registry]:
    with open_books(workspace) as books:
        yield Registry(workspace, books)


def get(registry: Registry, text: str, progress: Told | None = None) -> Version:
    found = registry.find(text, progress or Told())
    assert isinstance(found, Version)
    return found


def test_a_model_is_downloaded_registered_and_found_again(hub: Hub, registry: Registry) -> None:
    told = Told()
    version = get(registry, f"hf:{TINY}", told)
    commit = hub.commits[TINY]
    assert (version.name, version.version, version.owned) == ("tiny-model", 1, True)
    assert version.lineage.source == f"hf:{TINY}@{commit}"
    names = {path.name for path in version.path.iterdir()}
    assert names == set(version.lineage.files or {}) == SETTINGS & set(hub.repositories[TINY])
    assert open_model(version.path).digest() == version.digest
    assert "files" in told.lines[0], "the size is said before anything is downloaded"
    assert any("auto_map" in line for line in told.lines)
    asked = len(hub.requests)
    assert get(registry, f"hf:{TINY}") == version, "the same commit is not downloaded twice"
    assert [path for _, path, _ in hub.requests[asked:]] == [f"/api/models/{TINY}"]
    assert not list(registry.workspace.downloads.glob("*--*/*")), "nothing is left over"
    assert {path.partition("?")[0] for _, path, _ in hub.requests if "resolve" not in path} <= {
        f"/api/models/{TINY}", *(path for _, path, _ in hub.requests if path.startswith("/large/"))
    }, "no telemetry, nothing but the model"  # fmt: skip


def test_a_new_commit_is_a_new_version_and_an_old_one_can_be_named(
    hub: Hub, registry: Registry, files: dict[str, bytes]
) -> None:
    first = get(registry, f"hf:{TINY}")
    hub.add(TINY, files | {"generation_config.json": b'{"temperature": 0.5}'})
    second = get(registry, f"hf:{TINY}@main")
    assert (second.reference, first.reference) == ("tiny-model@2", "tiny-model@1")
    with pytest.raises(ModelError, match=r"has no revision 'v9'"):
        registry.find(f"hf:{TINY}@v9")


def test_a_download_that_was_cut_goes_on_where_it_stopped(hub: Hub, registry: Registry) -> None:
    hub.cut_after, hub.cuts_left = 300_000, 2
    get(registry, f"hf:{TINY}")
    ranges = [asked for _, path, asked in hub.requests if path.startswith("/large/") and asked]
    assert len(ranges) == 2, "each cut is followed by a request for the rest"
    assert all(int(asked.removeprefix("bytes=").partition("-")[0]) > 0 for asked in ranges)


def test_a_killed_download_goes_on_in_the_next_process(
    hub: Hub, workspace: Workspace, tmp_path: Path
) -> None:
    hub.slow_s = 0.1
    command = [sys.executable, "-m", "tuition.cli.main", "models", "add", f"hf:{TINY}"]
    place = os.environ | {"TUITION_HOME": str(workspace.root)}
    process = subprocess.Popen(command, env=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 100_000 for path in workspace.downloads.glob("*/*.part")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=30)
    hub.slow_s = 0
    done = subprocess.run(command, env=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "here already" in done.stderr
    assert "tiny-model@1 is registered" in done.stdout
    assert any(asked for _, path, asked in hub.requests if path.startswith("/large/"))


GGUFS = ("a-Q4_K_M.gguf", "a-Q8_0.gguf", "b/a-F16-00001-of-00002.gguf", "b/a-F16-00002-of-00002.gguf",
         "mmproj-a.gguf", "README.md")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "names", "chosen"),
    [
        ("hf:o/n", ("config.json", "model.safetensors", "x.py", "tokenizer.json", "a.gguf"),
         ["config.json", "model.safetensors", "tokenizer.json"]),
        ("hf:o/n:a", ("config.json", "model.safetensors", "a.gguf"), ["a.gguf"]),
        ("hf:o/n:q4_k_m", GGUFS, ["a-Q4_K_M.gguf"]),
        ("hf:o/n:a-Q8_0.gguf@main", GGUFS, ["a-Q8_0.gguf"]),
        ("hf:o/n:F16", GGUFS, ["b/a-F16-00001-of-00002.gguf", "b/a-F16-00002-of-00002.gguf"]),
        ("hf:o/n", ("a.gguf", "mmproj-a.gguf"), ["a.gguf"]),
        ("hf:o/n", ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                    "model.safetensors.index.json", "consolidated.safetensors"),
         ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
          "model.safetensors.index.json"]),
    ],
)  # fmt: skip
def test_only_weights_tokenizer_and_settings_are_chosen(text: str, names: tuple, chosen: list[str]) -> None:
    reference = parse_hub(text)
    assert reference is not None
    assert choose_files(reference, names) == chosen


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        ("hf:o/n", ("config.json", "pytorch_model.bin"), "pickles, which can run code, are never read"),
        ("hf:o/n", GGUFS, r"holds 3 GGUF models.*hf:o/n:a-Q4_K_M"),
        ("hf:o/n:Q5", GGUFS, "no GGUF file with 'Q5' in its name"),
        ("hf:o/n:Q5", ("config.json", "model.safetensors"), "has no GGUF file"),
        ("hf:o/n", ("adapter_config.json", "adapter_model.safetensors"), "is an adapter"),
        ("hf:o/n", ("README.md",), "no weights"),
    ],
)
def test_a_repository_without_a_model_to_use_is_named(text: str, names: tuple, said: str) -> None:
    reference = parse_hub(text)
    assert reference is not None
    with pytest.raises(ModelError, match=said) as caught:
        choose_files(reference, names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["hf:", "hf:name", "hf:a/b/c", "hf:../x", "hf:a/..", "hf:a/b@", "hf:a/b c",
                                  "hf:a/b@x@y", "hf:/b", "hf:a--b/c", "hf:https://x/y"])  # fmt: skip
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="hf:ORG/NAME"):
        parse_hub(text)


@pytest.mark.parametrize("text", ["bard", "./hf", "models/x", "a@2", "HF:a/b"])
def test_what_names_no_model_of_the_hub_asks_nobody(text: str) -> None:
    assert parse_hub(text) is None


def break_gated(hub: Hub, _: Any) -> None:
    hub.gated.add(TINY)


def break_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")


def break_server(hub: Hub, _: Any) -> None:
    hub.fails = 500


def break_content(hub: Hub, _: Any) -> None:
    hub.altered = "model.safetensors"


def break_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def break_disk(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))


BROKEN = {
    "gated": (break_gated, r"is gated; accept its terms at http.*/Org/Tiny-Model.*HF_TOKEN"),
    "bad token": (break_token, "does not accept the token"),
    "server": (break_server, "answered 500"),
    "content": (break_content, "model.safetensors came with another content"),
    "network": (break_network, "could not be read from http://127.0.0.1:9"),
    "disk": (break_disk, "on the disk"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_obstacle_is_one_clear_line(
    hub: Hub, registry: Registry, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    break_it, said = BROKEN[name]
    break_it(hub, monkeypatch)
    with pytest.raises(ModelError, match=said) as caught:
        registry.find(f"hf:{TINY}", Told())
    assert "\n" not in str(caught.value)
    assert registry.list() == ()


def test_a_hub_that_names_a_folder_as_commit_is_refused(hub: Hub, registry: Registry, tmp_path: Path) -> None:
    """The commit is part of a path whose folder is emptied in the end."""
    other = tmp_path / "own-files"
    other.mkdir()
    (other / "letter").write_text("dear")
    hub.commits[TINY] = f"x/{'../' * 20}{other.relative_to('/')}"
    with pytest.raises(ModelError, match="answered with the commit 'x/"):
        fetch(registry, HubReference(TINY, None, None), SilentProgress())
    assert [path.name for path in other.iterdir()] == ["letter"]


def test_a_missing_repository_is_one_clear_line(hub: Hub, registry: Registry) -> None:
    with pytest.raises(ModelError, match="is not on the hub, or private; check the name"):
        registry.find("hf:Org/Nothing", Told())


def test_a_gated_model_is_read_with_a_token(
    hub: Hub, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add(TINY)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert get(registry, f"hf:{TINY}").reference == "tiny-model@1"


def test_without_a_network_an_earlier_download_is_used_and_it_is_said(hub: Hub, registry: Registry) -> None:
    version = get(registry, f"hf:{TINY}")
    hub.fails, told = 503, Told()
    assert get(registry, f"hf:{TINY}", told) == version
    assert "earlier download" in told.lines[0]


def test_a_name_that_stands_for_another_model_is_not_taken(hub: Hub, registry: Registry) -> None:
    version = get(registry, f"hf:{TINY}")
    registry.add("tiny-model", version.path, digest=version.digest)
    hub.add("Other/Tiny-Model", hub.repositories[TINY] | {"generation_config.json": b"{}"})
    assert get(registry, "hf:Other/Tiny-Model").name == "other-tiny-model"


def test_two_that_want_the_same_model_download_it_once(hub: Hub, registry: Registry) -> None:
    reference, found = HubReference(TINY, None, None), []

    def ask() -> None:
        found.append(fetch(registry, reference, Told()))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert {version.reference for version in found} == {"tiny-model@1"}
