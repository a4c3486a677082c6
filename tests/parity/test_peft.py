"""peft is the oracle of adapters: it opens ours, we open its own, merged or not, with the same logits."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tuition.core.errors import ModelError
from tuition.export.gguf import export_gguf
from tuition.model.adapter import Adapter
from tuition.model.adapter_folder import open_adapter, save_adapter
from tuition.model.adapter_settings import AdapterSettings, adaptable
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.model.folder import ModelFolder, open_model
from tuition.model.lora import adapter_of, load_with_lora, merged_tensors
from tuition.tokenizer.training import train_bpe

SEQ_LEN = 24
SMALL = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": 6}),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {}),
    "granite": ("granite", {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.7}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 24}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"target_modules": "all-linear", "r": 4, "lora_alpha": 12},
    "rank-stabilized": {"target_modules": "all-linear", "r": 6, "use_rslora": True},
    "pattern-of-names": {"target_modules": r".*layers\.[02]\.mlp\.(up|down)_proj"},
    "layers": {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [0, 2]},
    "ranks": {"target_modules": ["q_proj", "down_proj"],
              "rank_pattern": {"down_proj": 3, "layers.1.self_attn.q_proj": 2}},
    "alphas": {"target_modules": ["q_proj", "up_proj"],
               "alpha_pattern": {r"^model.layers.[01].mlp.up_proj": 20}},
    "both": {"target_modules": ["k_proj"], "rank_pattern": {"k_proj": 5}, "alpha_pattern": {".*2.*k_proj": 7},
             "use_rslora": True},
    "dropout": {"target_modules": ["gate_proj"], "lora_dropout": 0.1, "init_lora_weights": "gaussian"},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> None:
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)


def oracle(family: str, extra: dict[str, Any]) -> PreTrainedModel:
    """A model of theirs with weights large enough that every part of it shows in the logits."""
    small = {"vocab_size": SMALL["vocab_size"]} if family == "gpt2" else SMALL
    config = AutoConfig.for_model(family, pad_token_id=None, **{**small, **json.loads(json.dumps(extra))})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomize(model, 0.3, seed=1)
    return model


@torch.no_grad()
def randomize(model: torch.nn.Module, std: float, seed: int, only: str = "") -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if re.search(only, name):
            is_norm = name.endswith("weight") and ("norm" in name or ".ln_" in name)
            parameter.normal_(float(is_norm), std, generator=generator)


def with_peft(model: PreTrainedModel, folder: Path, **config: Any) -> torch.Tensor:
    """Save an adapter of peft's with a random B; returns the logits with it."""
    adapted = get_peft_model(
        model, LoraConfig(**{"r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM", **config})
    )
    randomize(adapted, 0.15, seed=3, only="lora_")
    adapted.save_pretrained(folder)
    return logits_of(adapted.eval())


def tokens() -> torch.Tensor:
    return torch.randint(0, SMALL["vocab_size"], (2, SEQ_LEN), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits_of(theirs: torch.nn.Module) -> torch.Tensor:
    return theirs(tokens()).logits


@torch.no_grad()
def our_logits(decoder: Decoder) -> torch.Tensor:
    return decoder.logits(decoder(tokens(), DenseContext.of_length(SEQ_LEN)))


def merged(base: ModelFolder, adapter: Adapter) -> Decoder:
    decoder = Decoder(base.shape)
    decoder.load_state_dict(dict(merged_tensors(base, adapter)))
    return decoder


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """float32 on both sides: only the order of sums differs."""
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS)
def test_an_adapter_of_peft_opens_here(config: str, tmp_path: Path) -> None:
    oracle("llama", {}).save_pretrained(tmp_path / "base")
    theirs = with_peft(oracle("llama", {}), tmp_path / "theirs", **CONFIGS[config])
    base = open_model(tmp_path / "base")
    adapter = open_adapter(tmp_path / "theirs", base)
    close(our_logits(merged(base, adapter)), theirs)
    assert (theirs - logits_of(oracle("llama", {}))).abs().max() > 0.1  # the adapter shows


@pytest.mark.parametrize("config", CONFIGS)
def test_what_we_save_of_it_opens_in_peft_unchanged(config: str, tmp_path: Path) -> None:
    oracle("llama", {}).save_pretrained(tmp_path / "base")
    theirs = with_peft(oracle("llama", {}), tmp_path / "theirs", **CONFIGS[config])
    base = open_model(tmp_path / "base")
    first = open_adapter(tmp_path / "theirs", base)
    again = open_adapter(save_adapter(tmp_path / "ours", first, base), base)
    assert again.digest() == first.digest()
    close(logits_of(PeftModel.from_pretrained(oracle("llama", {}), tmp_path / "ours").eval()), theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_ours_opens_in_peft(family: str, tmp_path: Path) -> None:
    """Trained matrices as the decoder computes them, merged here, unmerged in peft, merged by peft."""
    oracle(*FAMILIES[family]).save_pretrained(tmp_path / "base")
    base = open_model(tmp_path / "base")
    decoder = load_with_lora(base, AdapterSettings(rank=4, alpha=6.0), torch.Generator().manual_seed(5))
    close(our_logits(decoder), logits_of(oracle(*FAMILIES[family])))  # B is zero
    randomize(decoder, 0.3, seed=6, only=r"\.up$")
    wanted = our_logits(decoder)
    adapter = adapter_of(decoder)
    close(our_logits(merged(base, adapter)), wanted)
    save_adapter(tmp_path / "ours", adapter, base)
    theirs = PeftModel.from_pretrained(oracle(*FAMILIES[family]), tmp_path / "ours").eval()
    close(logits_of(theirs), wanted)
    close(logits_of(theirs.merge_and_unload()), wanted)


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gpt2"])
def test_an_adapter_of_the_folder_fits_the_gguf_file_of_the_same_weights(family: str, tmp_path: Path) -> None:
    """A GGUF file of Llama keeps the rows of queries and keys in another order, phi3's other joined names."""
    source = oracle(FAMILIES[family][0], {**FAMILIES[family][1], "vocab_size": 300})
    source.save_pretrained(tmp_path / "base")
    theirs = with_peft(source, tmp_path / "theirs", target_modules="all-linear")
    train_bpe(["the cat sat on the mat"], 300).save(tmp_path / "base")
    export_gguf(open_model(tmp_path / "base"), tmp_path / "base.gguf", "f32")
    base = open_model(tmp_path / "base.gguf")
    close(our_logits(merged(base, open_adapter(tmp_path / "theirs", base))), theirs)


JOINED: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "down_proj"],
                      "alpha_pattern": {"qkv_proj": 9}}),
    "phi3-all": ("phi3", {"target_modules": "all-linear", "rank_pattern": {"layers.1.mlp.gate_up_proj": 3}}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn"]}),
    "gpt2-all": ("gpt2", {"target_modules": "all-linear", "use_rslora": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", JOINED)
def test_joined_matrices_have_one_a_for_all_parts(case: str, tmp_path: Path) -> None:
    """The parts of qkv_proj are matrices of their own here; saved again they are what they were."""
    family, config = JOINED[case]
    oracle(*FAMILIES[family]).save_pretrained(tmp_path / "base")
    theirs = with_peft(oracle(*FAMILIES[family]), tmp_path / "theirs", **config)
    base = open_model(tmp_path / "base")
    adapter = open_adapter(tmp_path / "theirs", base)
    close(our_logits(merged(base, adapter)), theirs)
    again = open_adapter(save_adapter(tmp_path / "ours", adapter, base), base)
    assert again.digest() == adapter.digest()
    ours, peft = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("ours", "theirs"))
    assert ours.keys() == peft.keys()
    assert all(torch.equal(ours[key], peft[key]) for key in ours)
    close(logits_of(PeftModel.from_pretrained(oracle(*FAMILIES[family]), tmp_path / "ours").eval()), theirs)


@pytest.mark.parametrize("family", ["phi3", "gpt2"])
@pytest.mark.parametrize("scale", ["plain", "rank-stabilized"])
def test_parts_with_an_a_each_are_saved_as_one_of_a_higher_rank(
    family: str, scale: Any, tmp_path: Path
) -> None:
    """What only some parts have is zero for the others; the digest is that of what the files say."""
    oracle(*FAMILIES[family]).save_pretrained(tmp_path / "base")
    base = open_model(tmp_path / "base")
    settings = AdapterSettings(rank=3, alpha=5.0, scale=scale, matrices=("query", "value", "down"))
    decoder = load_with_lora(base, settings, torch.Generator().manual_seed(5))
    randomize(decoder, 0.3, seed=6, only=r"\.up$")
    wanted = our_logits(decoder)
    adapter = replace(adapter_of(decoder), alphas={"layers.1.attention.value.weight": 2.0})
    save_adapter(tmp_path / "ours", replace(adapter, alphas={}), base)
    again = open_adapter(tmp_path / "ours", base)
    close(our_logits(merged(base, again)), wanted)
    assert json.loads((tmp_path / "ours" / "tuition.json").read_text())["weights_digest"] == again.digest()
    close(logits_of(PeftModel.from_pretrained(oracle(*FAMILIES[family]), tmp_path / "ours").eval()), wanted)
    further = load_with_lora(base, again.settings, begins_with=again)
    close(our_logits(further), wanted)
    assert {name: len(down) for name, (down, _) in again.pairs.items()} == dict.fromkeys(adapter.pairs, 3)
    save_adapter(tmp_path / "further", adapter_of(further), base)
    shapes = [
        {
            name: value.shape
            for name, value in load_file(tmp_path / folder / "adapter_model.safetensors").items()
        }
        for folder in ("ours", "further")
    ]
    assert shapes[0] == shapes[1], "what is taught further does not grow"
    save_adapter(tmp_path / "uneven", adapter, base)
    close(
        our_logits(merged(base, open_adapter(tmp_path / "uneven", base))), our_logits(merged(base, adapter))
    )


def test_types_of_the_file_are_read_exactly(tmp_path: Path) -> None:
    oracle("llama", {}).save_pretrained(tmp_path / "base")
    with_peft(oracle("llama", {}), tmp_path / "theirs", target_modules=["q_proj"])
    path = tmp_path / "theirs" / "adapter_model.safetensors"
    tensors = load_file(path)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path)
        adapter = open_adapter(tmp_path / "theirs", open_model(tmp_path / "base"))
        name = "layers.1.attention.query.weight"
        wanted = tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"].to(dtype).float()
        np.testing.assert_array_equal(adapter.pairs[name][0], wanted.numpy())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "use_dora is True"),
    "saved modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "biases": ({"bias": "lora_only"}, "bias is 'lora_only'"),
    "bias of B": ({"lora_bias": True}, "lora_bias"),
    "embedding": ({"target_modules": ["embed_tokens"]}, "embed_tokens"),
    "head": ({"target_modules": ["lm_head"]}, "lm_head"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
    "replicated layers": ({"layer_replication": [[0, 3], [1, 3]]}, "layer_replication"),
    "activation tokens": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    "task": ({"task_type": "SEQ_2_SEQ_LM"}, "task_type is 'SEQ_2_SEQ_LM'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_peft_computes_and_we_do_not_is_refused_by_name(case: str, tmp_path: Path) -> None:
    config, named = REFUSED[case]
    oracle("llama", {}).save_pretrained(tmp_path / "base")
    adapted = get_peft_model(
        oracle("llama", {}), LoraConfig(**{"target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **config})
    )
    adapted.save_pretrained(tmp_path / "theirs")
    with pytest.raises(ModelError, match=re.escape(named)):
        open_adapter(tmp_path / "theirs", open_model(tmp_path / "base"))


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    wide = {"hidden_size": 48, "intermediate_size": 64}
    oracle("llama", wide).save_pretrained(tmp_path / "other")
    with_peft(oracle("llama", {}), tmp_path / "theirs", target_modules=["q_proj"])
    with pytest.raises(ModelError, match=r"another base, layers.0.attention.query.weight.*B \(48, rank\)"):
        open_adapter(tmp_path / "theirs", open_model(tmp_path / "other"))
    oracle("llama", {"num_hidden_layers": 2}).save_pretrained(tmp_path / "shallow")
    with pytest.raises(ModelError, match=r"layers.2.self_attn.q_proj"):
        open_adapter(tmp_path / "theirs", open_model(tmp_path / "shallow"))


def test_every_matrix_of_the_layers_can_be_adapted(tiny_shape: Any) -> None:
    assert len(adaptable(tiny_shape)) == 7 * tiny_shape.num_layers
