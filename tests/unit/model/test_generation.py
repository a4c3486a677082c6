"""Sampling defaults of a model, out of its own files."""

from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import ModelError
from tuition.engine.request import Sampling
from tuition.model.generation import GenerationDefaults, defaults_of_folder, defaults_of_gguf

CONFIG, FILE = Path("generation_config.json"), Path("model.gguf")


def test_a_folder_says_what_it_says_and_nothing_more() -> None:
    table = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": 1}
    found = defaults_of_folder(table, CONFIG)
    assert found == GenerationDefaults(0.6, 0.95, 20, origin="generation_config.json")
    assert found.sampling() == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    assert Sampling(**found.sampling()).temperature == 0.6
    assert found.describe() == "temperature 0.6, top_p 0.95, top_k 20 (generation_config.json)"
    assert GenerationDefaults().describe() == "no defaults (the model names none)"


def test_do_sample_false_is_greedy_whatever_else_is_there() -> None:
    table = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}
    assert defaults_of_folder(table, CONFIG).sampling() == {"temperature": 0.0, "repetition_penalty": 1.1}


@pytest.mark.parametrize("table", [{}, {"eos_token_id": 2}, {"temperature": None, "top_k": None}])
def test_a_folder_without_a_word_says_nothing(table: dict[str, Any]) -> None:
    assert defaults_of_folder(table, CONFIG) == GenerationDefaults()


def test_longest_reply_and_switched_off_cuts() -> None:
    found = defaults_of_folder({"max_new_tokens": 512, "top_k": -1, "top_p": 1}, CONFIG)
    assert (found.max_new_tokens, found.top_k, found.top_p) == (512, 0, 1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", -1), ("temperature", "warm"), ("top_p", 1.5), ("top_k", 2.5), ("min_p", float("nan")),
     ("repetition_penalty", 0), ("do_sample", 1), ("max_new_tokens", 0), ("temperature", True)],
)  # fmt: skip
def test_values_that_cannot_be_are_named(key: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"generation_config.json.*{key}"):
        defaults_of_folder({key: value}, CONFIG)


def test_gguf_keys_and_llama_cpps_own_values_for_those_that_lack() -> None:
    keys = {"general.sampling.temp": 0.3, "general.sampling.top_k": 7, "general.sampling.mirostat": 2}
    found = defaults_of_gguf(keys, FILE)
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.3, 7, 0.95, 0.05)
    assert "mirostat" in found.origin, "what cannot be honored is said"
    plain = defaults_of_gguf({}, FILE)
    assert (plain.temperature, plain.top_k) == (0.8, 40)
    assert "llama.cpp" in plain.origin


def test_smollm2_gets_what_its_publisher_says() -> None:
    chat = {"general.basename": "smollm2", "tokenizer.chat_template": "x"}
    assert defaults_of_gguf(chat, FILE).sampling() == {"temperature": 0.2, "top_p": 0.9}
    assert defaults_of_gguf({"general.basename": "smollm2"}, FILE).temperature == 0.8, "its base model"
