"""A table of the forms that examples have in files.

In: a row of a file.  Out: `Content`. A form is added as one row of `FORMS`, and by name in
`ExampleSettings`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuition.core.errors import SettingsError
from tuition.data.readers import BadInput, Row
from tuition.data.settings import ExampleSettings
from tuition.data.turns import Message, parsed_list, read_calls, read_tools, read_turns, text_of


@dataclass(frozen=True)
class Content:
    """What a row holds: a conversation, or a prompt and its completion as plain text."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Message, ...] = ()
    prompt: str | None = None
    completion: str | None = None
    joint: str = ""
    """Between prompt and completion where both are taught as plain text."""


@dataclass(frozen=True)
class Form:
    """One way to write an example."""

    name: str
    fields: str
    """The fields of a row, in words."""
    fits: Callable[[Row], bool]
    """Whether a row has these fields. Their values are checked when the row is read."""
    read: Callable[[Row], Content]
    """Raises: BadInput."""


_TURNS = ("conversations", "conversation")
_INPUTS = ("input", "context")
_REPLIES = ("output", "response")


def _has(row: Row, *names: str) -> bool:
    return all(row.get(name) is not None for name in names)


def _conversation(field: str, row: Row) -> Content:
    messages = read_turns(row.get(field), field)
    if row.get("functions"):
        way_out = "write it as tools, with calls as tool_calls"
        raise BadInput("old field", "the field 'functions' is not supported", way_out=way_out)
    system = row.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Content(tuple(messages), read_tools(row.get("tools")))


def _pair(row: Row) -> Content:
    """Texts, or lists of messages as TRL has them: of these only the completion is taught."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return _texts(row, "prompt", "completion")
    before, after = _turns("user", prompt, "prompt"), _turns("assistant", completion, "completion")
    before = [turn | {"weight": 0} if turn["role"] == "assistant" else turn for turn in before]
    return Content((*before, *after), read_tools(row.get("tools")))


def _turns(role: str, value: Any, field: str) -> list[Message]:
    """A text as one turn of `role`, or a list of turns."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return read_turns(value, field, "a text or a list of turns")


def _texts(row: Row, prompt_field: str, completion_field: str, joint: str = "") -> Content:
    """Raises: BadInput for an empty prompt or completion."""
    prompt, completion = (text_of(row.get(name), name) for name in (prompt_field, completion_field))
    for name, text in ((prompt_field, prompt), (completion_field, completion)):
        if not text.strip():
            raise BadInput("empty", f"the field {name!r} is empty")
    return Content(prompt=prompt, completion=completion, joint=joint)


def _instruction(row: Row) -> Content:
    """The prompt is the instruction, an empty line, and the input."""
    if row.get("history"):
        way_out = "write such rows as messages"
        raise BadInput("old field", "the field 'history' is not supported", way_out=way_out)
    chosen = []
    for names in (_INPUTS, _REPLIES):
        found = [name for name in names if row.get(name)]
        if len(found) > 1:
            way_out = "name the right ones with --data.prompt-field and --data.completion-field"
            raise BadInput("ambiguous field", f"has both {found[0]!r} and {found[1]!r}", way_out=way_out)
        chosen.append(found[0] if found else next((name for name in names if name in row), names[0]))
    content = _texts(row, "instruction", chosen[1], joint="\n\n")
    more = text_of(row.get(chosen[0]) or "", chosen[0])
    prompt = f"{content.prompt}\n\n{more}" if more.strip() else content.prompt
    system = text_of(row.get("system") or "", "system")
    if not system.strip():
        return Content(prompt=prompt, completion=content.completion, joint="\n\n")
    turns = (("system", system), ("user", prompt), ("assistant", content.completion))
    return Content(tuple({"role": role, "content": text} for role, text in turns))


def _calls(row: Row) -> Content:
    """A question, and the calls of functions that answer it."""
    query = text_of(row.get("query"), "query")
    calls = read_calls(row.get("answers"), "answers")
    if not query.strip() or not calls:
        raise BadInput("empty", f"the field {'answers' if query.strip() else 'query'!r} is empty")
    messages = ({"role": "user", "content": query}, {"role": "assistant", "content": "", "tool_calls": calls})
    tools = read_tools(row.get("tools"))
    if not parsed_list(row.get("tools"), "tools"):
        raise BadInput("empty", "the field 'tools' is empty")
    return Content(messages, tools)


def _turns_field(row: Row) -> str:
    return next((name for name in _TURNS if _has(row, name)), _TURNS[0])


FORMS = {
    form.name: form
    for form in (
        Form("messages", "messages", lambda row: _has(row, "messages"),
             lambda row: _conversation("messages", row)),
        Form("conversations", "conversations", lambda row: any(_has(row, name) for name in _TURNS),
             lambda row: _conversation(_turns_field(row), row)),
        Form("pairs", "prompt, completion", lambda row: _has(row, "prompt", "completion"), _pair),
        Form("instructions", "instruction, input or context, output or response",
             lambda row: _has(row, "instruction") and any(_has(row, name) for name in _REPLIES),
             _instruction),
        Form("calls", "query, tools, answers", lambda row: _has(row, "query", "tools", "answers"), _calls),
    )
}  # fmt: skip


def named_form(settings: ExampleSettings) -> Form | None:
    """The form that the settings name; None: it is to be found from the rows. Raises: SettingsError."""
    prompt, completion, messages = settings.prompt_field, settings.completion_field, settings.messages_field
    if prompt is not None and completion is not None:
        if prompt == completion:
            wanted = "another field than prompt_field"
            raise SettingsError("data.completion_field", got=completion, wanted=wanted)
        return Form("two columns", f"{prompt}, {completion}", lambda row: _has(row, prompt, completion),
                    lambda row: _texts(row, prompt, completion))  # fmt: skip
    if messages is not None:
        return Form("turns", messages, lambda row: _has(row, messages),
                    lambda row: _conversation(messages, row))  # fmt: skip
    return None if settings.form == "auto" else FORMS[settings.form]
