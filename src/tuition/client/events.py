"""The bytes of a streamed reply as pieces.

In: the body of an HTTP response, server-sent events that hold a JSON chunk each.
Out: `Piece`, for `client/reply`.
A line ends at CR, LF or both, as the standard of server-sent events says, and at nothing else: other
characters that Python counts as line ends (U+2028, U+0085) may be part of a reply.
"""

import json
import re
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from tuition.client.errors import ClientError, sentence
from tuition.client.reply import Cost, Piece

DONE = "[DONE]"
_LINE_END = re.compile(rb"\r\n|\r(?!$)|\n")  # a CR at the end may be followed by its LF in the next bytes


async def event_data(body: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The `data` of each event, whose lines are joined."""
    rest, data = b"", list[bytes]()
    async for received in body:
        *lines, rest = _LINE_END.split(rest + received)
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data).decode("utf-8")
                data.clear()


def read_piece(data: str) -> Piece:
    """The piece in the data of one event. Raises: ClientError if it is an error; ValueError if no chunk."""
    chunk = json.loads(data)
    if "error" in chunk:
        error = chunk["error"]
        raise ClientError(sentence(str(error.get("message", ""))), error.get("code"))
    choice = next(iter(chunk.get("choices") or []), {})
    usage = chunk.get("usage") or {}
    return Piece(
        text=choice.get("delta", {}).get("content") or choice.get("text") or "",
        num_prompt_tokens=usage.get("prompt_tokens"),
        num_generated=usage.get("completion_tokens"),
        cost=read_cost(usage) if "cost_usd" in usage else None,
        finish_reason=choice.get("finish_reason"),
    )


def read_cost(usage: dict[str, Any]) -> Cost:
    """The cost in a usage object or a receipt."""
    return Cost(
        usage["cost_usd"], usage.get("energy_wh"), usage.get("energy_method"), usage.get("cost_basis")
    )
