"""The bytes of a stream become pieces, however they are cut; a line ends where the standard says, only."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tuition.client.errors import ClientError
from tuition.client.events import DONE, event_data, read_piece
from tuition.client.reply import Cost, Piece, Reply

ODD = "one\u2028two\u0085three\x0bfour\x1cfive ‘語’ 😀"
"""Characters at which Python's splitlines cuts and an event stream does not."""


def read(*parts: bytes) -> list[str]:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    async def collect() -> list[str]:
        return [data async for data in event_data(body())]

    return asyncio.run(collect())


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_the_bytes_are_cut(end: bytes, size: int) -> None:
    lines = [
        b": waiting",
        b"",
        b"data: " + ODD.encode(),
        b"id: 4",
        b"",
        b"data:a",
        b"data: b",
        b"",
        b"data: [DONE]",
    ]
    stream = end.join([*lines, b"", b": end", b""])
    parts = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert read(*parts) == [ODD, "a\nb", DONE]


def test_a_reply_with_every_line_separator_arrives_whole() -> None:
    chunk = {"choices": [{"delta": {"content": ODD}}]}
    (data,) = read(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode())
    assert read_piece(data).text == ODD


def test_a_chunk_of_each_dialect_is_a_piece() -> None:
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "cost_usd": 0.5,
        "energy_wh": None,
        "energy_method": None,
    }
    chat = {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}
    text = {"choices": [{"text": "b", "finish_reason": "length"}]}
    last = {"choices": [], "usage": usage}
    assert read_piece(json.dumps(chat)) == Piece("a")
    assert read_piece(json.dumps(text)) == Piece("b", finish_reason="length")
    assert read_piece(json.dumps(last)) == Piece(
        num_prompt_tokens=3, num_generated=2, cost=Cost(0.5, None, None)
    )


def test_an_error_event_is_a_sentence_with_the_code_of_the_server() -> None:
    with pytest.raises(ClientError, match=r"^The books are full\.$") as caught:
        read_piece(json.dumps({"error": {"message": "the books are full", "code": "books_unavailable"}}))
    assert caught.value.code == "books_unavailable"


def test_the_fold_appends_text_and_keeps_the_latest_of_the_rest() -> None:
    reply = Reply()
    for piece in (
        Piece(request_id="r"),
        Piece("a", num_prompt_tokens=3, num_generated=1),
        Piece("b", num_generated=2),
        Piece(finish_reason="stop"),
        Piece(cost=Cost(0.5, 1.0, "rapl")),
    ):
        reply.take(piece)
    assert reply == Reply("ab", 3, 2, Cost(0.5, 1.0, "rapl"), "stop", "r", None)
