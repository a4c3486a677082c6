"""GGUF models in several files, files beside each other, pointers in place of files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tuition.core.errors import ModelError
from tuition.export.gguf import export_gguf
from tuition.model.folder import open_model
from tuition.tokenizer.tokenizer import Tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 98362432\n"


@pytest.fixture
def whole(foreign_folder: Path, tmp_path: Path) -> Path:
    export_gguf(open_model(foreign_folder), tmp_path / "whole.gguf", "q8_0")
    return tmp_path / "whole.gguf"


@pytest.fixture
def parts(whole: Path, tmp_path: Path, rewrite_gguf: Callable[..., None]) -> Path:
    """The same model in parts, written by the gguf package."""
    folder = tmp_path / "parts"
    folder.mkdir()
    rewrite_gguf(whole, folder / "model.gguf", split_max_tensors=4)
    assert len(list(folder.iterdir())) > 3
    return folder


def test_a_split_model_opens_by_its_folder_and_by_any_part(whole: Path, parts: Path) -> None:
    expected = open_model(whole)
    for path in (parts, *sorted(parts.iterdir())[:2]):
        found = open_model(path)
        assert found.digest() == expected.digest()
        assert found.shape == expected.shape
        assert found.tokenizer().digest == expected.tokenizer().digest
        assert [file.name for file in found.files] == sorted(file.name for file in parts.iterdir())


def test_parts_that_are_missing_or_foreign_are_named(parts: Path, tmp_path: Path) -> None:
    first, second, *others = sorted(parts.iterdir())
    second.rename(tmp_path / "aside")
    with pytest.raises(ModelError, match=f"{second.name} is missing"):
        open_model(first)
    second.write_bytes(others[0].read_bytes())
    with pytest.raises(ModelError, match="is not part 2"):
        open_model(first)
    lone = tmp_path / "lone.gguf"
    lone.write_bytes(first.read_bytes())
    with pytest.raises(ModelError, match="split into"):
        open_model(lone)


def test_a_folder_with_two_models_says_so(whole: Path) -> None:
    (whole.parent / "other.gguf").write_bytes(whole.read_bytes())
    with pytest.raises(ModelError, match=r"holds 2 GGUF files: other\.gguf, whole\.gguf"):
        open_model(whole.parent)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_pointer_in_place_of_a_file_is_told(foreign_folder: Path, name: str) -> None:
    (foreign_folder / name).write_text(POINTER)
    with pytest.raises(ModelError, match=rf"{name}.*Git LFS pointer.*git lfs pull"):
        open_model(foreign_folder).tokenizer()


def test_a_pointer_in_place_of_a_gguf_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text(POINTER)
    with pytest.raises(ModelError, match="Git LFS pointer"):
        open_model(tmp_path / "a.gguf")


def test_a_key_that_stands_twice_is_named(foreign_folder: Path) -> None:
    config = foreign_folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"vocab_size": 7, ', 1))
    with pytest.raises(ModelError, match=r"config\.json.*'vocab_size' twice"):
        open_model(foreign_folder)


def test_a_whole_folder_still_opens(foreign_folder: Path) -> None:
    """The control of the tests above."""
    assert isinstance(open_model(foreign_folder).tokenizer(), Tokenizer)
