"""A tiny model on disk, whole and valid, for tests that damage it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    return train_bpe(["to be or not to be, that is the question\n" * 30], vocab_size=270)


@pytest.fixture(scope="session")
def small_shape(tiny_shape: ModelShape, bpe: Tokenizer) -> ModelShape:
    """With a row for each id, and some that no id uses."""
    return replace(tiny_shape, vocab_size=bpe.vocab_size + 6)


@pytest.fixture
def model_folder(tmp_path: Path, small_shape: ModelShape, bpe: Tokenizer) -> Path:
    """Saved by us, with `tuition.json`."""
    torch.set_num_threads(1)
    decoder = Decoder(small_shape).initialize(0.3, torch.Generator().manual_seed(1))
    return save_model(tmp_path / "model", decoder, small_shape, bpe, {"run_id": "r1"}, dtype="float32")


@pytest.fixture
def foreign_folder(model_folder: Path) -> Path:
    """The same as somebody else would have published it: without `tuition.json`."""
    (model_folder / "tuition.json").unlink()
    return model_folder


@pytest.fixture(scope="session")
def rewrite_gguf() -> Callable[..., None]:
    """Write a GGUF file anew with the gguf package: `rewrite_gguf(source, target, {key: value}, ...)`; a key
    of None is left out, further keywords are the writer's."""

    def rewrite(source: Path, target: Path, changes: dict[str, Any] | None = None, **keywords: Any) -> None:
        reader, added = gguf.GGUFReader(source), dict(changes or {})
        writer = gguf.GGUFWriter(target, "llama", **keywords)
        for name, found in reader.fields.items():
            if name.startswith("GGUF.") or name == "general.architecture" or name in added:
                continue
            writer.add_key_value(name, found.contents(), found.types[0], (*found.types, None)[1])
        for name, value in added.items():
            if value is not None:
                writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return rewrite
