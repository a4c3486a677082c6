"""Read the turns of a conversation in the forms that public data sets use.

In: a JSON value, as `messages` of OpenAI, `conversations` of ShareGPT or a list of texts.  Out: messages in
OpenAI's form whose content is one text, and tools as functions. Anything else raises `BadInput` with the name
of the field.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuition.core.words import value_in_words
from tuition.data.readers import BadInput

Message = dict[str, Any]

_ROLES = {
    "system": "system", "developer": "developer",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "function_response": "tool", "tool_response": "tool",
    "observation": "tool",
}  # fmt: skip
"""Role names in public data sets, and the role of OpenAI that each means."""
_CALLS = ("function_call", "tool_call")
"""Roles whose text is a call of a function, as JSON."""


def read_turns(value: Any, field: str, wanted: str = "a list of turns") -> list[Message]:
    """The messages of one conversation. `wanted`: what the field may hold. Raises: BadInput."""
    turns = parsed_list(value, field, wanted)
    if not turns:
        raise BadInput("empty", f"the field {field!r} holds no turns")
    if all(isinstance(turn, str) for turn in turns):  # as in UltraChat: the user begins
        turns = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return [_message(turn, f"{field}[{index}]") for index, turn in enumerate(turns)]


def read_tools(value: Any, field: str = "tools") -> tuple[Message, ...]:
    """Functions that the assistant may call, given as a list or as JSON text. Raises: BadInput."""
    if value is None or value == "":
        return ()
    tools = []
    for index, tool in enumerate(parsed_list(value, field)):
        place = f"{field}[{index}]"
        if not isinstance(tool, Mapping):
            raise BadInput("bad field", f"the field {place!r} is not an object")
        function = tool.get("function") if tool.get("type") == "function" else tool
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadInput("bad field", f"the field {place!r} names no function")
        tools.append({"type": "function", "function": dict(function)})
    return tuple(tools)


def read_calls(value: Any, field: str) -> list[Message]:
    """Calls of functions; their arguments become an object. Raises: BadInput."""
    return [_call(call, f"{field}[{index}]") for index, call in enumerate(parsed_list(value, field))]


def text_of(value: Any, field: str) -> str:
    """A text, or text parts joined by line ends. Raises: BadInput for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "\n".join(_part(part, f"{field}[{index}]") for index, part in enumerate(value))
    way_out = "write it as a text" if isinstance(value, int | float) else "mend it"
    problem = f"the field {field!r} is {value_in_words(value)}, not a text"
    raise BadInput("not a text", problem, way_out=way_out)


def parsed_list(value: Any, field: str, wanted: str = "a list") -> list[Any]:
    """A list, given as it is or as JSON text. An object counts as a list of one. Raises: BadInput."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            way_out = "write lists into a text as JSON"
            raise BadInput(
                "bad JSON", f"the field {field!r} is a text that is no JSON", way_out=way_out
            ) from None
    if isinstance(found, Mapping):
        return [found]
    if not isinstance(found, list):
        raise BadInput("bad field", f"the field {field!r} is {value_in_words(found)}, wanted {wanted}")
    return found


def _message(turn: Any, field: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadInput("bad field", f"the field {field!r} is {value_in_words(turn)}, wanted an object")
    turn = {name: value for name, value in turn.items() if value is not None}
    role_name, content_name = (
        ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
    )
    role = turn.get(role_name)
    if not isinstance(role, str) or role not in _ROLES:
        problem = f"the field '{field}.{role_name}' is {str(role)[:40]!r}" if role_name in turn else (
            f"the field {field!r} has no role"
        )  # fmt: skip
        raise BadInput("bad role", f"{problem}, wanted one of {', '.join(_ROLES)}")
    if turn.get("audio") or turn.get("images") or turn.get("image"):
        raise BadInput("not a text", f"the field {field!r} holds more than text")
    message: Message = {"role": _ROLES[role], "content": ""}
    calls = turn.get("tool_calls") or turn.get("function_call")
    if calls:
        message["tool_calls"] = read_calls(calls, f"{field}.tool_calls")
    if role in _CALLS:
        message["tool_calls"] = read_calls(turn.get(content_name), f"{field}.{content_name}")
    elif content_name in turn or not (calls or turn.get("reasoning_content")):
        message["content"] = text_of(turn.get(content_name), f"{field}.{content_name}")
    if role_name == "role":  # a template may know other fields, like reasoning_content
        known = {"role", "content", "tool_calls", "function_call"}
        message |= {name: value for name, value in turn.items() if name not in known}
    return message


def _call(call: Any, field: str) -> Message:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadInput("bad field", f"the field {field!r} names no function")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise BadInput("bad field", f"the field '{field}.arguments' is no JSON object")
    given = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {"type": "function", **given, "function": {"name": function["name"], "arguments": dict(arguments)}}


def _part(part: Any, field: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    is_typed = isinstance(part, Mapping) and part.get("type") is not None
    kind = f"a part of type {part['type']!r}" if is_typed else value_in_words(part)
    raise BadInput("not a text", f"the field {field!r} is {kind}; only text parts are taught")
