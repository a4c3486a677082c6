"""A key of a GGUF file that says what is computed is honored as in llama.cpp, or refused; never ignored."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import ModelError
from tuition.export.gguf import export_gguf
from tuition.model.folder import open_model
from tuition.spec.shape import RopeShape

Change = Callable[[dict[str, Any]], Path]


@pytest.fixture
def changed(foreign_folder: Path, tmp_path: Path, rewrite_gguf: Callable[..., None]) -> Change:
    """A file with other keys of architecture llama."""

    def change(keys: dict[str, Any]) -> Path:
        if not (tmp_path / "plain.gguf").exists():
            export_gguf(open_model(foreign_folder), tmp_path / "plain.gguf", "f32")
        named = {
            key if key.startswith("tokenizer.") else f"llama.{key}": value for key, value in keys.items()
        }
        rewrite_gguf(tmp_path / "plain.gguf", tmp_path / "changed.gguf", named)
        return tmp_path / "changed.gguf"

    return change


ROPES: dict[str, tuple[dict[str, Any], RopeShape]] = {
    "a factor without a kind": ({"rope.scaling.factor": 2.0}, RopeShape(kind="linear", factor=2.0)),
    "its old name": ({"rope.scale_linear": 4.0}, RopeShape(kind="linear", factor=4.0)),
    "the new name before the old": (
        {"rope.scaling.factor": 2.0, "rope.scale_linear": 4.0}, RopeShape(kind="linear", factor=2.0)),
    "kind none": ({"rope.scaling.type": "none", "rope.scaling.factor": 2.0}, RopeShape()),
    "linear without a factor": ({"rope.scaling.type": "linear"}, RopeShape()),
    "a factor of nothing": ({"rope.scaling.factor": 0.0}, RopeShape()),
    "yarn": (
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.attn_factor": 1.0,
         "rope.scaling.original_context_length": 32, "rope.scaling.yarn_ext_factor": 1.0},
        RopeShape(kind="yarn", factor=4.0, original_context=32)),
}  # fmt: skip


@pytest.mark.parametrize("name", ROPES)
def test_stretches_are_read_as_llama_cpp_reads_them(changed: Change, name: str) -> None:
    keys, expected = ROPES[name]
    found = open_model(changed(keys)).shape.rope
    assert found == replace(expected, theta=found.theta)


REFUSED: dict[str, Any] = {
    "attention.scale": 0.5, "attention.causal": False, "logit_scale": 0.0625, "residual_scale": 0.2,
    "embedding_scale": 12.0, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "attention.clamp_kqv": 8.0, "attention.max_alibi_bias": 8.0, "use_parallel_residual": True,
    "rope.scaling.alpha": 1000.0, "rope.scaling.attn_factor": 1.2, "rope.dimension_sections": 3,
    "rope.freq_base_swa": 10000.0, "attention.sliding_window_pattern": 6, "nextn_predict_layers": 1,
    "hidden_activation": "gelu", "something.new": 1, "tokenizer.ggml.suppress_tokens": [3],
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_what_cannot_be_computed_is_refused_by_its_name(changed: Change, key: str) -> None:
    with pytest.raises(ModelError, match=key.replace(".", r"\.")):
        open_model(changed({key: REFUSED[key]})).tokenizer()


def test_values_that_ask_for_nothing_change_nothing(changed: Change) -> None:
    plain = open_model(changed({}))
    scale = plain.shape.head_dim**-0.5
    neutral = {
        "attention.scale": scale,
        "attention.causal": True,
        "logit_scale": 1.0,
        "attention.clamp_kqv": 0.0,
        "pooling_type": 0,
        "expert_used_count": 0,
        "rope.scaling.finetuned": False,
    }
    assert open_model(changed(neutral)).shape == plain.shape
