"""A completion continues its prompt: text, stop texts, names of tokens and their offsets agree."""

from dataclasses import replace

import numpy as np
import pytest

from tuition.engine.reply import Reply
from tuition.engine.request import Completion, Request, Sampling, TokenLogprob
from tuition.serve.prompts import Prepared
from tuition.serve.replies import CompletionDialect
from tuition.tokenizer.gguf import gguf_tokenizer
from tuition.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    """Its decoder drops the space that encoding puts before a text."""
    words = ["▁The", "▁king", "s", "▁"]
    return gguf_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *words],
            "tokenizer.ggml.token_type": [2, 3, 3, *[1] * len(words)],
            "tokenizer.ggml.scores": [0.0] * 3 + [-float(index) for index in range(len(words))],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
    )


THE, KING, S = 3, 4, 5
REQUEST = Request("r", (1, THE), 8, Sampling(temperature=0))


def row(tokenizer: Tokenizer, token_id: int) -> np.ndarray:
    logits = np.zeros((1, tokenizer.vocab_size), np.float32)
    logits[0, token_id] = 9
    return logits


def test_the_reply_begins_with_its_space(sentencepiece: Tokenizer) -> None:
    reply = Reply(REQUEST, sentencepiece, 0)
    assert reply.choose(REQUEST, row(sentencepiece, KING), 2, [], None).text == " king"
    burst = Reply(REQUEST, sentencepiece, 0)
    assert burst.extend(REQUEST, [KING, S]).text == " kings"


def test_a_stop_text_with_that_space_is_found(sentencepiece: Tokenizer) -> None:
    request = replace(REQUEST, stop=(" king",))
    choice = Reply(request, sentencepiece, 0).choose(request, row(sentencepiece, KING), 2, [], None)
    assert (choice.text, choice.reason) == ("", "stop")


@pytest.mark.parametrize("echo", [False, True])
def test_the_names_of_the_tokens_joined_are_the_text(sentencepiece: Tokenizer, echo: bool) -> None:
    told = tuple(TokenLogprob(token, -1.0, ((KING, -1.0),)) for token in (KING, S))
    before = (TokenLogprob(1, None), TokenLogprob(THE, -1.0)) if echo else ()
    prepared = Prepared((REQUEST,), 1, ("The",), echo)
    dialect = CompletionDialect(sentencepiece, prepared, with_logprobs=True, num_top=1)
    completion = Completion("r", " kings", (KING, S), "length", 2, 0, 2, told, before or None)
    choice = dialect.choice(0, completion)
    logprobs = choice["logprobs"]
    shown = [name for name in logprobs["tokens"] if name != "<s>"]
    assert "".join(shown) == choice["text"] == ("The kings" if echo else " kings")
    assert logprobs["top_logprobs"][-2] == {" king": -1.0}
    assert logprobs["text_offset"][0] == (0 if echo else len("The"))
    ends = [*logprobs["text_offset"][1:], logprobs["text_offset"][0] + len(choice["text"])]
    parts = [end - begin for begin, end in zip(logprobs["text_offset"], ends, strict=True)]
    assert parts == [0 if name == "<s>" else len(name) for name in logprobs["tokens"]]
