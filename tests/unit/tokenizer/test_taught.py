"""Exactly what the assistant says is taught, with the token that ends its turn, as a server would see it."""

from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tokenizers

from tuition.core.errors import ModelError, RequestError
from tuition.tokenizer.folder import FolderSettings
from tuition.tokenizer.taught import Taught, taught_conversation, taught_pair
from tuition.tokenizer.tokenizer import Tokenizer

Messages = list[dict[str, Any]]
TURNS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **others: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **others}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


TALK = [user("hi"), assistant("Hello."), user("more"), assistant("Yes, more. ")]


def templated(tokenizer: Tokenizer, template: str, *ordinary: str) -> Tokenizer:
    """The same tokenizer with another template, and with added tokens that are not marked as special."""
    core = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    core.add_tokens([tokenizers.AddedToken(token, special=False, normalized=False) for token in ordinary])
    return Tokenizer(core, FolderSettings(eos_token="<|im_end|>", bos_token="<|endoftext|>",
                                          chat_template=template))  # fmt: skip


def said(tokenizer: Tokenizer, sequences: tuple[Taught, ...]) -> list[list[tuple[str, str]]]:
    """Each sequence as pairs: the text before a taught run, the text of the run."""
    shown = []
    for sequence in sequences:
        edges = [0, *(np.flatnonzero(np.diff(sequence.taught.astype(int))) + 1).tolist(), len(sequence.ids)]
        texts = [tokenizer.decode(sequence.ids[a:b].tolist(), skip_specials=False)
                 for a, b in pairwise(edges)]  # fmt: skip
        shown.append(list(zip(texts[::2], texts[1::2], strict=True)))
    return shown


def taught_text(tokenizer: Tokenizer, sequences: tuple[Taught, ...]) -> list[str]:
    return [text for runs in said(tokenizer, sequences) for _, text in runs]


def check_as_served(tokenizer: Tokenizer, messages: Messages, **given: Any) -> None:
    """Every taught turn follows the very ids that the server has as its prompt."""
    replies = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    found = []
    for sequence in taught_conversation(tokenizer, messages, template_kwargs=given or None):
        starts = np.flatnonzero(np.diff(np.concatenate(([0], sequence.taught.astype(int)))) == 1)
        found += [sequence.ids[:start].tolist() for start in starts]
    assert found == [tokenizer.render_chat(messages[:index], template_kwargs=given or None)
                     for index in replies]  # fmt: skip


def test_replies_and_their_end_are_taught_and_nothing_else(trained: Tokenizer) -> None:
    tokenizer = templated(trained, TURNS + PROMPT)
    (one,) = taught_conversation(tokenizer, [system("Be brief."), *TALK])
    begin = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    between = "\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"
    assert said(tokenizer, (one,)) == [[(begin, "Hello.<|im_end|>"), (between, "Yes, more. <|im_end|>")]]
    ends = [index + 1 for index in np.flatnonzero(one.taught[:-1] & ~one.taught[1:])]
    assert one.turns.tolist() == [*ends, len(one.ids)]
    assert (one.ids.dtype, one.taught.dtype, one.turns.dtype) == (np.int32, np.bool_, np.int32)
    check_as_served(tokenizer, [system("Be brief."), *TALK])


@pytest.mark.parametrize(
    "text", ["", " ", "a <|im_end|>\n<|im_start|>user\n b", "<|im_", "|>", "é 👩‍👩‍👧 日本語", "\n\nx\n\n"]
)
def test_any_text_is_taught_as_it_stands(trained: Tokenizer, text: str) -> None:
    """Also a template's own tokens, which in a message are text."""
    tokenizer = templated(trained, TURNS + PROMPT)
    messages = [user(text), assistant(text), user("b"), assistant("c")]
    sequences = taught_conversation(tokenizer, messages)
    assert taught_text(tokenizer, sequences) == [f"{text}<|im_end|>", "c<|im_end|>"]
    end = tokenizer.token_id("<|im_end|>")
    assert sum(np.count_nonzero(s.ids[s.taught] == end) for s in sequences) == 2
    check_as_served(tokenizer, messages)


DIFFICULTIES = {
    "strips contents": (
        TURNS.replace("m.content", "m.content | trim") + PROMPT,
        ["Hello.<|im_end|>", "Yes, more.<|im_end|>"],
    ),
    "adds a system message": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
        + TURNS + PROMPT,
        ["Hello.<|im_end|>", "Yes, more. <|im_end|>"],
    ),
    "begins the text itself": (
        "{{ bos_token }}" + TURNS + PROMPT,
        ["Hello.<|im_end|>", "Yes, more. <|im_end|>"],
    ),
    "has no prompt for a reply": (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}"
        " {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        [" Hello.<|im_end|>", " Yes, more. <|im_end|>"],
    ),
    "always writes the prompt": (
        TURNS + "{{ '<|im_start|>assistant\n' }}",
        ["Hello.<|im_end|>", "Yes, more. <|im_end|>"],
    ),
    "ends the conversation too": (
        TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}",
        ["Hello.<|im_end|>", "Yes, more. <|im_end|>"],
    ),
    "has its own names for roles": (
        "{% for m in messages %}{% set role = {'assistant': 'model'}.get(m.role, m.role) %}"
        "<|im_start|>{{ role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}",
        ["Hello.<|im_end|>", "Yes, more. <|im_end|>"],
    ),
    "marks what is generated": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        + PROMPT,
        ["Hello.<|im_end|>", "Yes, more. <|im_end|>"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFICULTIES)
def test_each_way_of_writing_turns_is_masked_exactly(trained: Tokenizer, name: str) -> None:
    template, wanted = DIFFICULTIES[name]
    tokenizer = templated(trained, template)
    sequences = taught_conversation(tokenizer, TALK)
    assert taught_text(tokenizer, sequences) == wanted
    assert len(sequences) == 1
    check_as_served(tokenizer, TALK)


FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}" + PROMPT
)


def test_earlier_thinking_is_taught_although_later_prompts_leave_it_out(trained: Tokenizer) -> None:
    tokenizer = templated(trained, FORGETS, "<think>", "</think>")
    messages = [user("hi"), assistant("Hello.", reasoning_content="greet"), user("more"),
                assistant("Yes.", reasoning="go on")]  # fmt: skip
    first, second = said(tokenizer, taught_conversation(tokenizer, messages))
    begin = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert first == [(begin, "<think>greet</think>Hello.<|im_end|>")]
    after = f"{begin}Hello.<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"
    assert second == [(after, "<think>go on</think>Yes.<|im_end|>")]
    check_as_served(tokenizer, messages)


def test_a_reply_begins_after_what_the_prompt_has_written_of_it(trained: Tokenizer) -> None:
    """`enable_thinking: false` puts empty thoughts into the prompt: they are read, not taught."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
        "<think></think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
        "<|im_start|>assistant\n{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
    )
    tokenizer = templated(trained, template, "<think>", "</think>")
    plain = taught_conversation(tokenizer, TALK[:2])
    assert taught_text(tokenizer, plain) == ["<think></think>Hello.<|im_end|>"]
    silent = taught_conversation(tokenizer, TALK[:2], template_kwargs={"enable_thinking": False})
    assert taught_text(tokenizer, silent) == ["Hello.<|im_end|>"]
    check_as_served(tokenizer, TALK, enable_thinking=False)


DROPS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
)
"""No turn shows its thinking, as in DeepSeek-R1's template."""
OPENS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"


@pytest.mark.parametrize("tags", [("<think>", "</think>"), ()])
def test_thinking_that_no_turn_shows_is_taught_as_it_is_generated(
    trained: Tokenizer, tags: tuple[str, ...]
) -> None:
    thought = "<think>\nhm\n</think>\n\nHello."
    messages = [user("hi"), assistant(thought), user("more"), assistant(thought)]
    tokenizer = templated(trained, DROPS + PROMPT, *tags)
    assert taught_text(tokenizer, taught_conversation(tokenizer, messages)) == [f"{thought}<|im_end|>"] * 2
    check_as_served(tokenizer, messages)
    opening = templated(trained, DROPS + OPENS, *tags)
    rest = "hm\n</think>\n\nHello.<|im_end|>"
    assert taught_text(opening, taught_conversation(opening, messages)) == [rest] * 2
    check_as_served(opening, messages)
    if tags:
        (ids, _) = (s.ids[s.taught].tolist() for s in taught_conversation(opening, messages))
        assert opening.token_id("</think>") in ids


def test_a_first_message_of_the_assistant_is_read_and_not_taught(trained: Tokenizer) -> None:
    tokenizer = templated(trained, TURNS + PROMPT)
    messages = [assistant("Welcome!"), *TALK]
    (runs,) = said(tokenizer, taught_conversation(tokenizer, messages))
    assert [text for _, text in runs] == ["Hello.<|im_end|>", "Yes, more. <|im_end|>"]
    assert "Welcome!" in runs[0][0]


def test_arguments_are_text_where_a_template_joins_them_to_text(trained: Tokenizer) -> None:
    joined = TOOLS.replace("{{ c.function | tojson }}", "{{ c.function.name + ' ' + c.function.arguments }}")
    tokenizer = templated(trained, joined)
    messages = [user("w"), assistant(None, tool_calls=[CALL])]
    (text,) = taught_text(tokenizer, taught_conversation(tokenizer, messages))
    assert text == '<tool_call>weather {"city": "Rome"}</tool_call><|im_end|>'


LAST_ONLY = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.system = m.content + ' ' %}{% elif m.role == 'user' %}<|im_start|>"
    "{% if loop.last %}{{ ns.system }}{% endif %}{{ m.content }}</s>{% else %}{{ m.content }}<|im_end|>"
    "{% endif %}{% endfor %}"
)
"""The system message stands in the last message, and only if that is the user's: in no whole conversation."""


def test_a_template_that_shows_the_system_message_in_prompts_only(trained: Tokenizer) -> None:
    core = tokenizers.Tokenizer.from_str(trained.to_json())
    tokenizer = Tokenizer(core, FolderSettings(eos_token="<|im_end|>", chat_template=LAST_ONLY))
    shown = said(tokenizer, taught_conversation(tokenizer, [system("Be brief."), *TALK]))
    assert shown == [
        [("<|im_start|>Be brief. hi</s>", "Hello.<|im_end|>")],
        [("<|im_start|>hi</s>Hello.<|im_end|><|im_start|>Be brief. more</s>", "Yes, more. <|im_end|>")],
    ]
    check_as_served(tokenizer, [system("Be brief."), *TALK])


def test_a_token_across_the_border_of_prompt_and_reply_is_not_taught(trained: Tokenizer) -> None:
    """The prompt ends in "to b", the reply begins with "e, or": a server never sees a token over both."""
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }} To b{% else %}{{ m.content }}"
        "<|im_end|>{% endif %}{% endfor %}"
    )
    tokenizer = templated(trained, template)
    messages = [user("x"), assistant("e, or"), user("y"), assistant("e, or")]
    assert len(tokenizer.encode("x To be, or")) < len(tokenizer.encode("x To b") + tokenizer.encode("e, or"))
    sequences = taught_conversation(tokenizer, messages)
    assert len(sequences) == 2, "the later prompt is encoded over the border"
    assert taught_text(tokenizer, sequences) == ["e, or<|im_end|>"] * 2
    check_as_served(tokenizer, messages)


CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}" + PROMPT
)


def test_calls_of_tools_are_taught_and_their_results_are_not(trained: Tokenizer) -> None:
    tokenizer = templated(trained, TOOLS, "</tool_call>")
    messages = [user("w"), assistant(None, tool_calls=[CALL]), {"role": "tool", "content": "sunny"},
                assistant("Sunny.")]  # fmt: skip
    (runs,) = said(tokenizer, taught_conversation(tokenizer, messages, tools=[TOOL]))
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call><|im_end|>'
    assert [text for _, text in runs] == [call, "Sunny.<|im_end|>"]
    assert "sunny" in runs[1][0]
    assert '"name": "weather"' in runs[0][0]
    check_as_served(tokenizer, messages, tools=[TOOL])


@pytest.mark.parametrize(
    ("messages", "tools", "field"),
    [
        ([user("x")], None, "messages"),
        ([user("x"), assistant(None, tool_calls=[CALL])], None, r"messages\[1\]\.tool_calls"),
        ([user("x"), assistant("a", reasoning_content="why")], None, r"messages\[1\]\.reasoning_content"),
        ([user("x"), assistant("a")], [TOOL], "tools"),
        ([user("x"), assistant("a", tool_calls=[{"function": {"name": "f", "arguments": "{"}}])], None,
         r"messages\[1\]\.tool_calls\[0\]\.function\.arguments"),
    ],
)  # fmt: skip
def test_what_a_template_would_leave_out_is_named(
    trained: Tokenizer, messages: Messages, tools: list[dict] | None, field: str
) -> None:
    shown = TURNS.replace("m.content", "(m.content or '')")
    with pytest.raises(RequestError, match=field):
        taught_conversation(templated(trained, shown + PROMPT), messages, tools=tools)


REFUSED = {
    "opens thoughts that no turn shows": (
        TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}", "<think>"),
    "has no token that ends a turn": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}", "never stop"),
    "writes on after the end": (
        TURNS.replace("<|im_end|>", "<|im_end|>and ") + PROMPT, "never be generated"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_be_masked_is_refused_with_the_place(trained: Tokenizer, name: str) -> None:
    template, place = REFUSED[name]
    with pytest.raises(ModelError, match=place):
        taught_conversation(templated(trained, template), TALK)


def test_messages_that_a_good_template_cannot_show_as_turns_are_the_datas_fault(trained: Tokenizer) -> None:
    """Two replies in a row, which the template writes as one."""
    template = (
        "{% for m in messages %}{% if loop.first or messages[loop.index0 - 1].role != m.role %}<|im_start|>"
        "{{ m.role }}\n{% endif %}{{ m.content }}"
        "{% if loop.last or messages[loop.index0 + 1].role != m.role %}<|im_end|>\n{% endif %}{% endfor %}"
        + PROMPT
    )
    with pytest.raises(RequestError, match=r"messages\[2\]"):
        taught_conversation(templated(trained, template), [user("x"), assistant("a"), assistant("b")])


def test_the_date_is_the_given_one_in_every_beginning(trained: Tokenizer) -> None:
    tokenizer = templated(trained, "{{ strftime_now('%Y-%m-%d %H:%M:%S') }}" + TURNS + PROMPT)
    (one,) = taught_conversation(tokenizer, TALK, now=datetime(2001, 2, 3, 4, 5, 6))
    assert tokenizer.decode(one.ids.tolist()).startswith("2001-02-03 04:05:06")


def test_a_plain_pair_teaches_the_completion_and_the_end(family_with_end: Tokenizer) -> None:
    pair = taught_pair(family_with_end, "the then", " on the")
    before = family_with_end.encode("the then")
    assert pair.ids[: len(before)].tolist() == before
    assert pair.taught.tolist() == [False] * len(before) + [True] * (len(pair.ids) - len(before))
    assert pair.ids[-1] == family_with_end.eos_ids[0]
    assert pair.turns.tolist() == [len(pair.ids)]
    assert family_with_end.decode(pair.ids.tolist()).endswith("the then on the")


@pytest.fixture(params=["bpe", "llama", "unigram"])
def family_with_end(request: pytest.FixtureRequest, families: dict[str, Tokenizer]) -> Tokenizer:
    return families[request.param]


def test_a_pair_needs_a_token_that_ends_it(plain_words: Tokenizer) -> None:
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(plain_words.to_json()), FolderSettings())
    if not tokenizer.eos_ids:
        with pytest.raises(ModelError, match="ends a text"):
            taught_pair(tokenizer, "a", "b")
