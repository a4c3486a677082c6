"""Tokens declared beside tokenizer.json, as transformers reads them; and the tokens that end a reply."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import ModelError
from tuition.tokenizer.ends import known_ends
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = ("<|im_start|>", "<|im_end|>")
HI = [{"role": "user", "content": "to be or not to be?  yes"}]


def entry(token: str, **flags: bool) -> dict[str, Any]:
    usual = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": token, **usual, **flags}


def folder(path: Path, config: dict[str, Any], **files: dict[str, Any]) -> Path:
    """A folder whose tokenizer.json knows one special token."""
    train_bpe(["to be or not to be, that is the question"] * 3, 300).save(path)
    size = Tokenizer.load(path).vocab_size
    for table in (config, *files.values()):
        for key in [key for key in table if key.startswith("+")]:
            table[str(size + int(key[1:]))] = table.pop(key)
        for key, value in table.items():
            if isinstance(value, dict):
                table[key] = {str(size + int(k[1:])) if k.startswith("+") else k: v for k, v in value.items()}
            elif isinstance(value, int):
                table[key] = size + value
    (path / "generation_config.json").unlink()
    own = {"chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(own | config))
    for name, table in files.items():
        (path / f"{name}.json").write_text(json.dumps(table))
    return path


CASES: dict[str, dict[str, dict[str, Any]]] = {
    "in the config, by id": {
        "config": {"added_tokens_decoder": {"+0": entry(TURNS[0]), "+1": entry(TURNS[1])},
                   "eos_token": "<|im_end|>"}},
    "in the config, not special": {
        "config": {"added_tokens_decoder": {"+1": entry(TURNS[1], special=False, normalized=True),
                                            "+0": entry(TURNS[0], special=False, normalized=True)}}},
    "in added_tokens.json": {
        "config": {"eos_token": "<|im_end|>"}, "added_tokens": {TURNS[0]: 0, TURNS[1]: 1}},
    "as tokens with a role": {
        "config": {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}},
    "in special_tokens_map.json": {
        "config": {}, "special_tokens_map": {"eos_token": entry("<|im_end|>"),
                                             "additional_special_tokens": ["<|im_start|>"]}},
    "with other flags than in tokenizer.json": {
        "config": {"added_tokens_decoder": {"0": entry("<|endoftext|>", lstrip=True), "+0": entry(TURNS[0]),
                                            "+1": entry(TURNS[1])}}},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_declared_tokens_are_added_as_transformers_adds_them(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    case = json.loads(json.dumps(CASES[name]))
    path = folder(tmp_path, case.pop("config"), **case)
    ours, theirs = Tokenizer.load(path), transformers.AutoTokenizer.from_pretrained(str(path))
    assert ours.render_chat(HI) == list(
        theirs.apply_chat_template(HI, add_generation_prompt=True)["input_ids"]
    )
    assert {ours.token_id(turn) for turn in TURNS} <= set(ours.render_chat(HI))
    text = "to be <|im_start|> <|endoftext|> not"
    assert ours.encode(text, "parse") == theirs(text, add_special_tokens=False).input_ids
    assert ours.token_id("<|im_end|>") in ours.eos_ids, "the turn's end ends a reply"


@pytest.mark.parametrize(
    "table", [{"-1": entry("<x>")}, {"x": entry("<x>")}, {"3": "<x>"}, {"3": {}}, {"3": {"content": 5}}]
)
def test_a_damaged_declaration_is_named(tmp_path: Path, table: dict[str, Any]) -> None:
    path = folder(tmp_path, {})
    (path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": table}))
    if table == {"3": "<x>"}:
        assert Tokenizer.load(path).token_id("<x>") is not None, "a text is a token without flags"
        return
    with pytest.raises(ModelError, match="added token"):
        Tokenizer.load(path)


ENDS: dict[str, tuple[dict[str, dict[str, Any]], set[str]]] = {
    "tokenizer_config only": ({"config": {"eos_token": "<stop>"}}, {"<stop>", "<|endoftext|>"}),
    "special_tokens_map only": (
        {"config": {}, "special_tokens_map": {"eos_token": "<stop>"}}, {"<stop>", "<|endoftext|>"}),
    "the two name different ones": (
        {"config": {"eos_token": "<stop>"}, "special_tokens_map": {"eos_token": "<|endoftext|>"}},
        {"<stop>", "<|endoftext|>"}),
    "generation_config and tokenizer_config differ": (
        {"config": {"eos_token": "<|im_end|>"}, "generation_config": {"eos_token_id": [0]}},
        {"<|im_end|>", "<|endoftext|>"}),
    "nobody names any": (
        {"config": {"added_tokens_decoder": {"+0": entry("<|im_start|>"), "+1": entry("<|im_end|>")}}},
        {"<|im_end|>", "<|endoftext|>"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_ends_are_the_union_of_what_all_files_say_and_the_known_ones(tmp_path: Path, name: str) -> None:
    files, expected = json.loads(json.dumps(ENDS[name][0])), ENDS[name][1]
    tokenizer = Tokenizer.load(folder(tmp_path, files.pop("config"), **files))
    assert {tokenizer.token(token_id) for token_id in tokenizer.eos_ids} == expected


def test_the_end_of_a_part_of_a_turn_is_no_end() -> None:
    assert known_ends({"<|end|>": 7}) == [7]
    assert known_ends({"<|end|>": 7, "<|return|>": 8, "<|call|>": 9}) == [8, 9]
    assert known_ends({"</s>": 1, "<|tool_response>": 2}) == [2]
