"""The messages of a chat: checked field by field, under the protocol's own names.

In: the JSON value of `messages`.  Out: messages whose content is one text, then as a template takes them.
Plain Python instead of pydantic: validating a hundred thousand parts there holds the interpreter for seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tuition.core.errors import RequestError, UnsupportedField

ROLES = ("developer", "system", "user", "assistant", "tool", "function")
MAX_MESSAGES = 4_096
_TYPES: dict[str, tuple[type, str]] = {
    "name": (str, "a string"),
    "tool_call_id": (str, "a string"),
    "refusal": (str, "a string"),
    "tool_calls": (list, "a list"),
    "function_call": (dict, "a JSON object"),
}


def read_messages(value: Any) -> tuple[dict[str, Any], ...]:
    """Messages with a text as their content. Unknown fields are kept, for the model's template.

    Raises: RequestError, UnsupportedField.
    """
    if not isinstance(value, list):
        raise RequestError("messages", "wanted a list of messages")
    if not 1 <= len(value) <= MAX_MESSAGES:
        raise RequestError("messages", f"got {len(value):,} messages, wanted 1 to {MAX_MESSAGES:,}")
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(value))


def for_template(messages: Sequence[Mapping[str, Any]], template: str) -> list[dict[str, Any]]:
    """The messages as `template` takes them: roles under a name that it knows, no call that it would drop.

    Raises: UnsupportedField.
    """
    turns = []
    for index, message in enumerate(messages):
        for calls in ("tool_calls", "function_call"):
            if message.get(calls) and calls not in template:
                raise UnsupportedField(f"messages[{index}].{calls}")
        role = message["role"]
        if role == "developer" and "developer" not in template:
            role = "system"
        turns.append({**message, "role": "tool" if role == "function" else role})
    return turns


def _message(message: Any, field: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RequestError(field, "wanted a JSON object")
    role = message.get("role")
    if role not in ROLES:
        raise RequestError(f"{field}.role", f"wanted one of {', '.join(ROLES)}")
    for name, (kind, wanted) in _TYPES.items():
        if message.get(name) is not None and not isinstance(message[name], kind):
            raise RequestError(f"{field}.{name}", f"wanted {wanted}")
    if message.get("audio") is not None:
        raise UnsupportedField(f"{field}.audio")
    checked = {name: item for name, item in message.items() if item is not None}
    return checked | {"content": _text(message, role, f"{field}.content")}


def _text(message: Mapping[str, Any], role: str, field: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_part(part, role, f"{field}[{index}]") for index, part in enumerate(content))
    if content is not None:
        raise RequestError(field, "wanted a text, or a list of text parts")
    if role == "assistant":
        if message.get("refusal"):
            return message["refusal"]
        if message.get("tool_calls") or message.get("function_call"):
            return ""
    raise RequestError(field, "is missing; wanted a text, or a list of text parts")


def _part(part: Any, role: str, field: str) -> str:
    if not isinstance(part, dict):
        raise RequestError(field, "wanted a JSON object")
    kind = part.get("type")
    if not isinstance(kind, str):
        raise RequestError(f"{field}.type", "wanted a string such as text")
    if kind != "text" and not (kind == "refusal" and role == "assistant"):
        raise UnsupportedField(f"{field}.type")
    text = part.get(kind)
    if not isinstance(text, str):
        raise RequestError(f"{field}.{kind}", "is missing" if text is None else "wanted a string")
    return text
