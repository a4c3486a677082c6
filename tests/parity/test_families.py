"""The transformers library is the oracle: same logits for every family and variant; it opens what we save."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tuition.books.books import open_books
from tuition.core.progress import SilentProgress
from tuition.core.workspace import open_workspace
from tuition.data.settings import DataSettings
from tuition.model import save
from tuition.model.context import DenseContext
from tuition.model.folder import open_model
from tuition.model.load import load_decoder
from tuition.model.names import FOLDER
from tuition.model.save import save_model
from tuition.spec.machine import detect_machine
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.recipes.pretrain import Pretrain
from tuition.train.recipes.pretrain_settings import EvaluationSettings, PretrainSettings, ShapeSettings
from tuition.train.run import Host, run_training
from tuition.train.settings import TrainSettings

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}


def rope(settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Heads wide enough that the ramps of yarn and llama3 have dimensions before, within and behind them."""
    return {"head_dim": 32, "rope_parameters": {**settings, **more}}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("llama", {"head_dim": 20}),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1}),
    "llama-many-kv-heads": ("llama", {"num_key_value_heads": 4}),
    "rope-plain": ("llama", rope({"rope_type": "default", "rope_theta": 1e4})),
    "rope-llama3": ("llama", rope(LLAMA3)),
    "rope-linear": ("llama", rope(LINEAR)),
    "rope-yarn": ("llama", rope(YARN)),
    "rope-yarn-bounds": ("llama", rope(YARN, beta_fast=4.0, beta_slow=0.5)),
    "rope-yarn-exact-bounds": ("llama", rope(YARN, beta_fast=4.0, beta_slow=0.5, truncate=False)),
    "rope-yarn-attention": ("llama", rope(YARN, attention_factor=0.8)),
    "rope-yarn-mscale": ("llama", rope(YARN, mscale=0.7, mscale_all_dim=1.3)),
    "qwen2": ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen2-yarn": ("qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen2-window-unused": ("qwen2", {"sliding_window": 5, "max_window_layers": 0}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3-bias": ("qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen2-head-dim": ("qwen2", {"head_dim": 20}),
    "qwen3-yarn": ("qwen3", rope(YARN)),
    "qwen3-layer-types": ("qwen3", {
        "head_dim": 16, "use_sliding_window": True, "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "mistral-window": ("mistral", {"sliding_window": 6}),
    "mistral-no-window": ("mistral", {"sliding_window": None, "head_dim": 12}),
    "mistral-yarn": ("mistral", rope(YARN, rope_theta=1e6)),
    "mistral-linear-window": ("mistral", rope(LINEAR) | {"sliding_window": 6}),
    "mistral-tied": ("mistral", {"tie_word_embeddings": True}),
    "smollm2": ("llama", {  # as SmolLM2-135M, narrower: its heads, its tied head, its base of rotation
        "hidden_size": 72, "intermediate_size": 192, "num_attention_heads": 9, "num_key_value_heads": 3,
        "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}),
}  # fmt: skip
GEMMA = {"head_dim": 16, "sliding_window": 6, "num_hidden_layers": 7}
ROTATED_APART = {"rope_parameters": {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}}  # fmt: skip
FACTORS = {"embedding_multiplier": 12.0, "logits_scaling": 0.3, "residual_multiplier": 0.22,
           "attention_multiplier": 0.2}  # fmt: skip
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 48,
            "short_factor": [1.0, 1.2, 1.5, 3.0], "long_factor": [2.0, 3.0, 5.0, 9.0]}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
CASES |= {
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "smollm3-biases": ("smollm3", {"attention_bias": True, "mlp_bias": True, "no_rope_layer_interval": 2}),
    "smollm3-listed": ("smollm3", {"no_rope_layers": [0, 1, 0], "tie_word_embeddings": False} | rope(YARN)),
    "smollm3-all-turn": ("smollm3", {"no_rope_layers": [1, 1, 1], "head_dim": 12}),
    "olmo2": ("olmo2", {}),
    "olmo2-bias": ("olmo2", {"attention_bias": True, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "olmo2-yarn": ("olmo2", rope(YARN)),
    "phi3": ("phi3", {}),
    "phi3-part": ("phi3", {"num_key_value_heads": 4, "sliding_window": 6, "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    "phi3-uneven-part": ("phi3", {"head_dim": 24, "tie_word_embeddings": True, "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.76}}),
    "phi3-longrope": ("phi3", {"original_max_position_embeddings": 48, "rope_parameters": LONGROPE}),
    "phi3-longrope-part": ("phi3", {
        "hidden_size": 64, "original_max_position_embeddings": 48,
        "rope_parameters": {**LONGROPE, "partial_rotary_factor": 0.5, "attention_factor": 1.2}}),
    "granite": ("granite", FACTORS),
    "granite-biases": ("granite", {**FACTORS, "attention_bias": True, "mlp_bias": True,
                                   "tie_word_embeddings": True, **rope(LLAMA3)}),
    "granite-default-factors": ("granite", {}),
    "granite-plain-scale": ("granite", {"attention_multiplier": 8**-0.5}),
    "gemma3": ("gemma3_text", GEMMA),
    "gemma3-scale": ("gemma3_text", {**GEMMA, "query_pre_attn_scalar": 100, **ROTATED_APART}),
    "gemma3-bias": ("gemma3_text", {**GEMMA, "attention_bias": True, "tie_word_embeddings": False,
                                    "query_pre_attn_scalar": 16, "num_key_value_heads": 1}),
    "gemma3-pattern": ("gemma3_text", {**GEMMA, "sliding_window_pattern": 2}),
    "gemma3-listed": ("gemma3_text", {**GEMMA, "num_hidden_layers": 3, "layer_types": [
        "full_attention", "sliding_attention", "full_attention"]}),
    "gpt2": ("gpt2", GPT2),
    "gpt2-inner": ("gpt2", {**GPT2, "n_inner": 40, "tie_word_embeddings": False}),
}  # fmt: skip
BATCH, SEQ_LEN = 2, 40


@pytest.fixture(autouse=True)
def quiet() -> None:
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)


def oracle(family: str, extra: dict[str, Any], dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of theirs with weights large enough that every part of it shows in the logits."""
    small = {"vocab_size": SMALL["vocab_size"]} if family == "gpt2" else SMALL
    config = AutoConfig.for_model(family, pad_token_id=None, **{**small, **json.loads(json.dumps(extra))})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            is_norm = name.endswith("weight") and ("norm" in name or ".ln_" in name)
            parameter.normal_(float(is_norm and family != "gemma3_text"), 0.3, generator=generator)
    return model.to(dtype)


def tokens() -> torch.Tensor:
    return torch.randint(0, SMALL["vocab_size"], (BATCH, SEQ_LEN), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def our_logits(folder: Path) -> torch.Tensor:
    decoder = load_decoder(folder)
    return decoder.logits(decoder(tokens(), DenseContext.of_length(SEQ_LEN)))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_those_of_transformers_and_it_opens_what_we_save(case: str, tmp_path: Path) -> None:
    family, extra = CASES[case]
    theirs = oracle(family, extra)
    theirs.save_pretrained(tmp_path / "theirs")
    wanted = theirs(tokens()).logits
    torch.testing.assert_close(our_logits(tmp_path / "theirs"), wanted, rtol=0, atol=1e-4)

    folder = open_model(tmp_path / "theirs")
    save_model(tmp_path / "ours", load_decoder(folder), folder.shape, None, family=family, dtype="float32")
    again = open_model(tmp_path / "ours")
    assert again.shape == folder.shape
    assert again.digest() == folder.digest()
    reopened, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager", dtype="auto"
    )
    assert not any(report.values()), report
    torch.testing.assert_close(
        reopened(tokens()).logits, wanted, rtol=0, atol=0
    )  # the same weights and settings


def test_the_variants_change_the_logits(tmp_path: Path) -> None:
    """Otherwise agreement would prove nothing: each of these differs from every other in what is computed."""
    seen: dict[str, torch.Tensor] = {}
    for case in [name for name in CASES if name.startswith("rope-")]:
        family, extra = CASES[case]
        oracle(family, extra).save_pretrained(tmp_path / case)
        seen[case] = our_logits(tmp_path / case)
    for case, logits in seen.items():
        for other in seen.keys() - {case}:
            assert (logits - seen[other]).abs().max() > 1e-3, (case, other)


def test_a_network_that_was_saved_without_its_head_is_read(tmp_path: Path) -> None:
    """GPT-2's own checkpoint is one: its names lack `transformer.`, and it holds masks of attention."""
    theirs = oracle("gpt2", GPT2)
    theirs.save_pretrained(tmp_path)
    wanted = our_logits(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    assert "wte.weight" in bare
    bare["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(bare, tmp_path / "model.safetensors")
    assert torch.equal(our_logits(tmp_path), wanted)


def test_the_old_spelling_of_rope_settings_means_the_same(tmp_path: Path) -> None:
    theirs = oracle("llama", {"rope_parameters": LLAMA3})
    theirs.save_pretrained(tmp_path)
    new = open_model(tmp_path).shape
    config = json.loads((tmp_path / "config.json").read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = {**scaling, "type": "llama3"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_model(tmp_path).shape == new


@torch.no_grad()
def test_shards_of_theirs_open_here_and_shards_of_ours_open_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = oracle("qwen3", {"head_dim": 16})
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    wanted = theirs(tokens()).logits
    torch.testing.assert_close(our_logits(tmp_path / "theirs"), wanted, rtol=0, atol=1e-4)
    folder = open_model(tmp_path / "theirs")
    decoder = load_decoder(folder)
    monkeypatch.setattr(save, "MOST_SHARD_BYTES", 30_000)
    save_model(tmp_path / "ours", decoder, folder.shape, None, dtype="float32")
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 2
    assert open_model(tmp_path / "ours").digest() == folder.digest()
    reopened = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", dtype="auto"
    )
    torch.testing.assert_close(reopened(tokens()).logits, wanted, rtol=0, atol=0)


def test_a_folder_that_a_training_run_published_opens_there_unchanged(tmp_path: Path) -> None:
    """Their Auto classes, no help from us: the same token ids, and the same logits in float32."""
    words = ("rose", "thorn", "crown")
    text = "".join(
        f"{number}: the {words[number % 3]} of the king, naïve — and 雨\n" for number in range(600)
    )
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    settings = TrainSettings(name="tiny", steps=3, threads=1)
    recipe = PretrainSettings(
        data=DataSettings(paths=(tmp_path / "text.txt",), num_workers=1),
        vocab_size=300,
        batch_size=2,
        seq_len=32,
        shape=ShapeSettings(hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, mlp_size=24),
        evaluation=EvaluationSettings(times=1, probe_bytes=200, sample_tokens=4),
    )
    workspace = open_workspace(tmp_path / "home").create()
    with open_books(workspace) as books:
        host = Host(workspace, books, detect_machine(), SilentProgress())
        folder = run_training(settings, Pretrain(recipe), host).version.path
    theirs, report = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not any(report.values()), report
    their_tokenizer, tokenizer = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    for sample in ("the rose of the king", " naïve —\n\n雨  and\t🙂 it's 12,345", text[:400]):
        assert their_tokenizer(sample)["input_ids"] == list(tokenizer.encode(sample))
        assert their_tokenizer.decode(their_tokenizer(sample)["input_ids"]) == sample
    assert their_tokenizer.eos_token_id in tokenizer.eos_ids
    ids = torch.tensor([tokenizer.encode(text[:200])[:32]])
    decoder = load_decoder(folder)
    with torch.no_grad():
        ours = decoder.logits(decoder(ids, DenseContext.of_length(ids.shape[1])))
        wanted = theirs(ids).logits
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4)  # float32: only the order of sums differs


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
def test_a_round_trip_keeps_every_bit(tmp_path: Path, dtype: torch.dtype, name: Any) -> None:
    oracle("llama", {"tie_word_embeddings": True}, dtype).save_pretrained(tmp_path / "a")
    folder = open_model(tmp_path / "a")
    save_model(tmp_path / "b", dict(folder.tensors()), folder.shape, None, dtype=name)
    before, after = load_file(tmp_path / "a/model.safetensors"), load_file(tmp_path / "b/model.safetensors")
    assert before.keys() == after.keys() == {FOLDER.name(ours) for ours in folder.tensor_names}
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype == dtype
        assert torch.equal(tensor.view(torch.int16), after[key].view(torch.int16))
