"""An adapter's folder is read like any file of somebody else: what is wrong is named, nothing is guessed."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tuition.core.errors import ModelError
from tuition.model.adapter import Adapter
from tuition.model.adapter_folder import open_adapter, read_adapter_folder, require_base, save_adapter
from tuition.model.adapter_settings import AdapterSettings, adaptable
from tuition.model.decoder import Decoder
from tuition.model.folder import ModelFolder
from tuition.model.memory import model_in_memory
from tuition.spec.shape import ModelShape

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
A0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def base(tiny_shape: ModelShape) -> ModelFolder:
    weights = Decoder(tiny_shape).initialize(generator=torch.Generator().manual_seed(0))
    return model_in_memory(tiny_shape, weights.state_dict(), lambda: pytest.fail("no tokenizer is needed"))


@pytest.fixture
def folder(base: ModelFolder, tmp_path: Path) -> Path:
    """As peft leaves one: without tuition.json."""
    drawn, shapes = np.random.default_rng(1), base.shape.tensor_shapes()
    pairs = {
        name: (drawn.normal(size=(4, shapes[name][1])), drawn.normal(size=(shapes[name][0], 4)))
        for name in adaptable(base.shape)
    }
    settings = AdapterSettings(rank=4, alpha=8.0)
    made = save_adapter(tmp_path / "adapter", Adapter(settings, pairs, base="acme/base"), base)
    (made / "tuition.json").unlink()
    return made


def configured(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | changes))

    return change


def rewritten(**changes: np.ndarray | None) -> Callable[[Path], None]:
    """With other tensors: `first` for A of the first query matrix, None: without it."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        for name, value in changes.items():
            key = A0 if name == "first" else name
            if value is None:
                del tensors[key]
            else:
                tensors[key] = value
        save_file(tensors, folder / WEIGHTS)

    return change


def as_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda folder: (folder / CONFIG).unlink(), "has no adapter_config.json"),
    "a pickle": (as_pickle, "has no adapter_model.safetensors; save it with peft"),
    "cut off": (cut, "ends at byte"),
    "config is a list": (lambda folder: (folder / CONFIG).write_text("[]"), "is not a JSON object"),
    "other kind": (configured(peft_type="IA3"), "peft_type is 'IA3'"),
    "unknown key that says something": (configured(use_newest_idea=True), "use_newest_idea is True"),
    "rank is text": (configured(r="16"), "r is '16', wanted a whole number"),
    "rank is another": (configured(r=8), "the rank 8, its A has 4 rows"),
    "alpha is infinite": (configured(lora_alpha=-1), "lora_alpha is -1, wanted a finite number above 0"),
    "dropout is one": (configured(lora_dropout=1.0), "lora_dropout is 1.0"),
    "pattern that never ends": (configured(rank_pattern={"(a+)+b": 4}), r"rank_pattern has the pattern"),
    "pattern that is none": (configured(alpha_pattern={"(": 4}), "alpha_pattern has the pattern '('"),
    "patterns are a list": (configured(rank_pattern=[1]), "rank_pattern is no table"),
    "A without B": (rewritten(first=None), "lacks A or B of model.layers.0.self_attn.q_proj"),
    "A of another width": (rewritten(first=np.zeros((4, 5), np.float32)), "A (rank, 32)"),
    "A is a vector": (rewritten(first=np.zeros(4, np.float32)), "is no matrix"),
    "A holds integers": (rewritten(first=np.zeros((4, 32), np.int32)), "only F64, F32, F16, BF16"),
    "A holds a NaN": (
        rewritten(first=np.full((4, 32), np.nan, np.float32)),
        "a NaN or an infinity; fetch it again",
    ),
    "A holds more than float32": (rewritten(first=np.full((4, 32), 1e300)), "a NaN or an infinity"),
    "alpha is huge": (configured(lora_alpha=1e39), "products fit in float32"),
    "A is huge": (rewritten(first=np.full((4, 32), 3e38, np.float32)), "products fit in float32"),
    "a tensor of its own": (rewritten(extra=np.zeros((2, 2), np.float32)), "holds 'extra'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_in_one_line(case: str, folder: Path, base: ModelFolder) -> None:
    spoil, problem = WRONG[case]
    open_adapter(folder, base)
    spoil(folder)
    began = time.monotonic()
    with pytest.raises(ModelError) as raised:
        open_adapter(folder, base)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)
    assert time.monotonic() - began < 10


def test_a_name_that_cannot_be_shown_is_not_taken(folder: Path) -> None:
    assert read_adapter_folder(folder).base == "acme/base"
    configured(base_model_name_or_path="x\x1b[2J")(folder)
    assert read_adapter_folder(folder).base is None


def test_a_file_that_was_changed_after_publication_is_found(base: ModelFolder, tmp_path: Path) -> None:
    name = adaptable(base.shape)[0]
    pair = (np.ones((2, 32), np.float32), np.ones((32, 2), np.float32))
    adapter = Adapter(AdapterSettings(rank=2), {name: pair}, base="x@1", base_digest="ab" * 32)
    made = save_adapter(tmp_path / "adapter", adapter, base, {"recipe": "finetune"})
    told = read_adapter_folder(made)
    assert (told.base, told.base_digest, told.num_parameters) == ("x@1", "ab" * 32, 128)
    assert told.manifest is not None
    assert told.manifest["recipe"] == "finetune"
    with pytest.raises(ModelError, match=r"trained with ababababab.*\(x@1\)"):
        require_base(open_adapter(made, base), base, "cd" * 32)
    configured(lora_alpha=1)(made)
    with pytest.raises(ModelError, match="was changed after the model was published"):
        open_adapter(made, base)


def test_an_existing_folder_is_not_written_over(folder: Path, base: ModelFolder) -> None:
    with pytest.raises(ModelError, match="exists already"):
        save_adapter(folder, open_adapter(folder, base), base)
