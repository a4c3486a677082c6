"""Small tokenizers of every family, built in memory."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from tuition.tokenizer.folder import FolderSettings
from tuition.tokenizer.gguf import gguf_tokenizer
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>")
TEXT = (
    "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer 1234 slings.\n\n"
    * 20
)


def bpe() -> Tokenizer:
    return train_bpe([TEXT, "äöü 👩‍👩‍👧 日本語 <tool_call>"], 320, SPECIALS, chat_template=CHATML)


def llama_style() -> Tokenizer:
    """SentencePiece BPE out of GGUF metadata, with byte tokens and a user-defined one."""
    words = ["▁", "t", "h", "e", "o", "▁t", "he", "▁the", "n", "s", "/", "<", ">", "</", "s>"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words, "<tool>"]
    types = [2, 3, 3, *[6] * 256, *[1] * len(words), 4]
    scores = [0.0] * 259 + [-float(index) for index in range(len(words))] + [0.0]
    return gguf_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
    )


def unigram() -> Tokenizer:
    """Its vocabulary holds the special token's own text as a piece, as T5's does."""
    pieces = [
        ("<unk>", 0.0),
        ("</s>", -1.0),
        ("▁", -2.0),
        ("▁the", -3.0),
        *((c, -5.0) for c in "thenos<>/'. "),
    ]
    core = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    core.add_special_tokens([AddedToken("</s>", special=True)])
    return Tokenizer(core, FolderSettings(eos_token="</s>", chat_template=CHATML))


def wordpiece() -> Tokenizer:
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "th", "##e", "##n", "on", ".", "'", "s", "t", "##s"]
    core = tokenizers.Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    core.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    return Tokenizer(core, FolderSettings(bos_token="[CLS]", eos_token="[SEP]"))


FAMILIES = {"bpe": bpe(), "llama": llama_style(), "unigram": unigram(), "wordpiece": wordpiece()}


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Tokenizer:
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def trained() -> Tokenizer:
    return FAMILIES["bpe"]


@pytest.fixture(scope="session")
def families() -> dict[str, Tokenizer]:
    return FAMILIES


@pytest.fixture(scope="session")
def plain_words() -> Tokenizer:
    """Byte-level BPE with one special token only."""
    return train_bpe([TEXT], 300)


@pytest.fixture
def model_folder(tmp_path: Path, trained: Tokenizer) -> Path:
    """A folder as the hub has it, for tests to change."""
    trained.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0], "bos_token_id": 0}))
    return tmp_path
