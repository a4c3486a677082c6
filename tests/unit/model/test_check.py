"""A model that could not be used is refused before it is registered, with the reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tuition.core.errors import ModelError
from tuition.export.gguf import export_gguf
from tuition.model.check import check_model
from tuition.model.folder import open_model


def test_a_usable_model_passes_with_its_digest(foreign_folder: Path) -> None:
    checked = check_model(foreign_folder)
    assert checked.digest == checked.folder.digest() == open_model(foreign_folder).digest()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def infinite_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("inf")
    save_file(tensors, folder / "model.safetensors")


def not_a_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][2, 1] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tokenizer": (no_tokenizer, r"no tokenizer\.json"),
    "an infinite weight": (infinite_weight, "infinity in norm.weight"),
    "a weight that is no number": (not_a_number, r"NaN or an infinity in layers\.1\.mlp\.up"),
    "a broken template": (lambda f: edit_config(f, chat_template="{% if %}"), "template is broken"),
    "tokens without a row": (
        lambda f: edit_config(f, chat_template="{{ messages[0].content }}<39>",
                              additional_special_tokens=[f"<{n}>" for n in range(40)]),
        "'<39>'.* the embedding has"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_would_fail_at_first_use_is_refused(foreign_folder: Path, fault: str) -> None:
    plant, message = FAULTS[fault]
    plant(foreign_folder)
    with pytest.raises(ModelError, match=message):
        check_model(foreign_folder)


def test_an_unknown_pre_tokenizer_is_refused(
    foreign_folder: Path, tmp_path: Path, rewrite_gguf: Callable[..., None]
) -> None:
    export_gguf(open_model(foreign_folder), tmp_path / "a.gguf", "f32")
    rewrite_gguf(tmp_path / "a.gguf", tmp_path / "b.gguf", {"tokenizer.ggml.pre": "martian"})
    assert check_model(tmp_path / "a.gguf").digest
    with pytest.raises(ModelError, match="martian"):
        check_model(tmp_path / "b.gguf")


def test_one_part_of_several_is_refused_and_its_folder_taken(
    foreign_folder: Path, tmp_path: Path, rewrite_gguf: Callable[..., None]
) -> None:
    export_gguf(open_model(foreign_folder), tmp_path / "a.gguf", "f32")
    (tmp_path / "parts").mkdir()
    rewrite_gguf(tmp_path / "a.gguf", tmp_path / "parts" / "m.gguf", split_max_tensors=9)
    assert check_model(tmp_path / "parts").digest == check_model(tmp_path / "a.gguf").digest
    with pytest.raises(ModelError, match="give the folder"):
        check_model(next((tmp_path / "parts").iterdir()))


def test_an_empty_path_is_not_the_current_folder(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_folder)
    open_model(".")
    with pytest.raises(ModelError, match="empty path"):
        open_model("")
