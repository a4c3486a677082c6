"""Examples as the model will see them: split, cut, counted."""

from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import DataError
from tuition.core.progress import SilentProgress
from tuition.data.lessons import Lessons, prepare_lessons
from tuition.data.settings import ExampleSettings
from tuition.tokenizer.encoder import TextEncoder
from tuition.tokenizer.taught import Taught
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe

Write = Callable[..., Path]
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@cache
def templated(template: str) -> Tokenizer:
    """A tokenizer with this chat template."""
    text = "What is 12, part 3? It is 4567890. To be, or not to be. "
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return train_bpe([text * 20], 300, specials, chat_template=template)


@pytest.fixture(scope="session")
def chat() -> Tokenizer:
    return templated(CHAT)


def row(number: int | str, turns: int = 1, **others: Any) -> dict[str, Any]:
    """A conversation about one number."""
    messages = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"What is {number}, part {turn}?"})
        messages.append({"role": "assistant", "content": f"It is {number}."})
    return {"messages": messages, **others}


def prepare(path: Path, tokenizer: Tokenizer, longest: int = 4_096, **settings: Any) -> Lessons:
    return prepare_lessons(ExampleSettings(paths=(path,), **settings), tokenizer, longest)


def taught_text(tokenizer: Tokenizer, sequence: Taught) -> str:
    return tokenizer.decode(sequence.ids[sequence.taught].tolist(), skip_specials=False)


def test_replies_are_taught_with_the_token_that_ends_them(write_jsonl: Write, chat: Tokenizer) -> None:
    lessons = prepare(write_jsonl([row(n, turns=2) for n in range(30)]), chat)
    texts = {taught_text(chat, sequence) for sequence in (*lessons.train, *lessons.heldout)}
    assert texts == {f"It is {n}.<|im_end|>" * 2 for n in range(30)}
    assert lessons.num_taught == sum(int(sequence.taught.sum()) for sequence in lessons.train)


def test_a_model_without_a_chat_template_is_taught_plain_text(
    write_jsonl: Write, tokenizer: Tokenizer
) -> None:
    path = write_jsonl([{"prompt": f"{n}+1=", "completion": f" {n + 1}"} for n in range(30)])
    plain = templated(CHAT)
    for settings, model in (({}, tokenizer), ({"template": "none"}, plain)):
        lessons = prepare(path, model, **settings)
        (text,) = {taught_text(model, s) for s in (*lessons.train, *lessons.heldout) if len(s.ids)
                   and model.decode(s.ids.tolist()).startswith("7+1=")}  # fmt: skip
        assert (text, lessons.style) == (f" 8{model.eos_token}", "plain")
    chatted = prepare(path, plain)
    assert chatted.style == "chat"
    assert all(s.ids[0] == plain.token_id("<|im_start|>") for s in chatted.train)


def test_the_split_follows_from_the_contents_alone(write_jsonl: Write, chat: Tokenizer) -> None:
    def held(rows: list[dict[str, Any]], name: str) -> set[str]:
        lessons = prepare(write_jsonl(rows, name), chat, heldout_share=0.2)
        assert len(lessons.train_examples) + len(lessons.heldout_examples) == len(rows)
        return {taught_text(chat, sequence) for sequence in lessons.heldout}

    rows = [row(n) for n in range(100)]
    first = held(rows, "a.jsonl")
    assert 10 <= len(first) <= 30
    assert held(rows[::-1], "b.jsonl") == first


def test_at_most_so_many_are_held_out(write_jsonl: Write, chat: Tokenizer) -> None:
    lessons = prepare(write_jsonl([row(n) for n in range(200)]), chat, heldout_share=0.5, heldout_max=10)
    assert 5 <= len(lessons.heldout_examples) <= 15


def test_copies_are_on_one_side_and_counted(write_jsonl: Write, chat: Tokenizer) -> None:
    rows = [row(n) for n in range(40)]
    spaced = {"messages": [{**m, "content": m["content"].replace(" ", "  ")} for m in rows[3]["messages"]]}
    lessons = prepare(write_jsonl([*rows, *rows, spaced]), chat, heldout_share=0.3)
    train, heldout = ({lesson.identity for lesson in part}
                      for part in (lessons.train_examples, lessons.heldout_examples))  # fmt: skip
    assert not train & heldout
    assert len(train) + len(heldout) == 40
    assert len(lessons.heldout_examples) == len(heldout)
    copies = (lessons.counts.num_duplicates, lessons.counts.num_heldout_copies)
    assert sum(copies) == 41
    assert min(copies) > 0
    assert any(f"{copies[0]} of 81 examples: copies of others" in line for line in lessons.describe())


def test_groups_are_never_torn_apart(write_jsonl: Write, chat: Tokenizer) -> None:
    path = write_jsonl([row(n, customer=f"c{n % 12}") for n in range(120)])
    lessons = prepare(path, chat, group_field="customer", heldout_share=0.25)
    train, heldout = ({lesson.group for lesson in part}
                      for part in (lessons.train_examples, lessons.heldout_examples))  # fmt: skip
    assert not train & heldout
    assert len(train | heldout) == 12
    assert "chosen by a hash of their field 'customer'" in lessons.split
    with pytest.raises(DataError, match=r"too few to hold some out \(different values of 'customer': 1\)"):
        prepare(
            write_jsonl([row(n, customer="x") for n in range(9)], "b.jsonl"), chat, group_field="customer"
        )


def test_examples_that_are_also_held_out_are_named_and_not_taught(
    write_jsonl: Write, chat: Tokenizer
) -> None:
    train = write_jsonl([row(n) for n in range(20)], "train.jsonl")
    heldout = write_jsonl([row(n) for n in (100, 7, 101, 7, 3)], "own.jsonl")
    lessons = prepare(train, chat, heldout_paths=(heldout,))
    assert (len(lessons.train_examples), len(lessons.heldout_examples)) == (18, 4)
    (line,) = [line for line in lessons.describe() if "also held out" in line]
    assert line == f"2 examples are also held out and are not taught: {train}, line 4; {train}, line 8"
    assert lessons.split == f"4 of 22 examples held out, those in {heldout}"


def test_a_group_in_two_parts_leaks_no_copy(write_jsonl: Write, chat: Tokenizer) -> None:
    """The same question from two customers: the split by customer cannot keep copies together."""
    path = write_jsonl([row("the same" if n % 10 == 0 else n, customer=f"c{n // 10}") for n in range(100)])
    lessons = prepare(path, chat, group_field="customer", heldout_share=0.3)
    assert lessons.counts.num_leaked > 0
    assert not {x.identity for x in lessons.train_examples} & {x.identity for x in lessons.heldout_examples}


@pytest.mark.parametrize("style", ["chat", "plain"])
@pytest.mark.parametrize("side", ["prompt", "completion"])
def test_what_cannot_fit_is_not_encoded(
    write_jsonl: Write, chat: Tokenizer, monkeypatch: pytest.MonkeyPatch, style: str, side: str
) -> None:
    """A line of megabytes would take gigabytes; the examples beside it are as they were."""
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(20)]
    rows.append({"prompt": "Why?", "completion": "It is.", side: "To be, or not. " * 20_000})
    path = write_jsonl(rows)
    template = "auto" if style == "chat" else "none"
    widest, encoded = chat.longest_token or 0, []
    encode = TextEncoder.encode

    def counted(self: TextEncoder, text: str, continued: bool = False) -> list[int]:
        encoded.append(len(text))
        return encode(self, text, continued)

    monkeypatch.setattr(TextEncoder, "encode", counted)
    kept = prepare(path, chat, 60, too_long="cut", template=template)
    assert 60 < max(encoded) <= 61 * widest
    assert (kept.style, kept.counts.num_left_out, kept.counts.num_cut) == (style, 1, 0)
    assert len(kept.train_examples) + len(kept.heldout_examples) == 20
    with pytest.raises(DataError, match=r"1 of 21 examples have more than 60 tokens .*line 21"):
        prepare(path, chat, 60, template=template)


def test_turns_before_one_that_cannot_fit_are_kept(write_jsonl: Write, chat: Tokenizer) -> None:
    whole = row("4", turns=4)
    whole["messages"][4]["content"] *= 20_000
    kept = prepare(write_jsonl([*(row(n) for n in range(20)), whole]), chat, 150, too_long="cut")
    assert (kept.counts.num_cut, kept.counts.num_left_out) == (1, 0)
    examples = {x.origin.rpartition(" ")[2]: x for x in (*kept.train_examples, *kept.heldout_examples)}
    (sequence,) = examples["21"].sequences
    assert taught_text(chat, sequence) == "It is 4.<|im_end|>" * 2


def test_too_long_examples_are_refused_cut_or_left_out(write_jsonl: Write, chat: Tokenizer) -> None:
    path = write_jsonl([*(row(n) for n in range(20)), row(50, turns=6), row(51, turns=3)])
    lengths = sorted(len(sequence.ids) for sequence in prepare(path, chat).train)
    assert lengths[-1] > 200
    longest = lengths[-1] // 2
    problem = rf"rows\.jsonl: [12] of 22 examples have more than {longest} tokens"
    worst = rf"the longest at least {lengths[-1]}; the first is .*line 21"
    with pytest.raises(DataError, match=rf"{problem} \({worst}\); --data.too-long cut"):
        prepare(path, chat, longest)
    left_out = prepare(path, chat, longest, too_long="leave-out")
    cut = prepare(path, chat, longest, too_long="cut")
    num_long = left_out.counts.num_left_out
    assert (cut.counts.num_cut, cut.counts.num_left_out) == (num_long, 0)
    kept = {x.origin: x for x in (*cut.train_examples, *cut.heldout_examples)}[f"{path}, line 21"]
    (sequence,) = kept.sequences
    assert len(sequence.ids) <= longest
    assert taught_text(chat, sequence) == "It is 50.<|im_end|>" * len(sequence.turns)
    assert (len(sequence.turns), kept.cut_tokens > 0) == (3, True)
    assert not {f"{path}, line 21"} & {
        x.origin for x in (*left_out.train_examples, *left_out.heldout_examples)
    }


def test_what_has_no_turn_that_fits_is_left_out_or_refused_whole(write_jsonl: Write, chat: Tokenizer) -> None:
    rows = [*(row(n) for n in range(20)), row("so long " * 300, turns=2)]
    lessons = prepare(write_jsonl(rows), chat, 300, too_long="cut")
    assert (lessons.counts.num_cut, lessons.counts.num_left_out) == (0, 1)
    for choice in ("cut", "leave-out"):
        with pytest.raises(
            DataError, match="no example has a turn of the assistant within 20 tokens; take a longer"
        ):
            prepare(write_jsonl(rows), chat, 20, too_long=choice)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row(1)], r"too few to hold some out \(different examples: 1\); add examples, or name others"),
        ([row(1)] * 50, r"too few to hold some out \(different examples: 1\)"),
        (
            [{"messages": []}] * 3,
            r"holds no example that can be used \(.*line 1: the field 'messages' holds no turns",
        ),
    ],
)
def test_too_few_examples_are_named(
    write_jsonl: Write, chat: Tokenizer, rows: list[dict[str, Any]], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        prepare(write_jsonl(rows), chat, on_bad="skip")


def test_an_empty_held_out_part_is_named(write_jsonl: Write, chat: Tokenizer) -> None:
    train = write_jsonl([row(1), row(2)])
    empty = write_jsonl([{"messages": []}], "empty.jsonl")
    with pytest.raises(DataError, match=r"empty\.jsonl: holds no example that can be used"):
        prepare(train, chat, heldout_paths=(empty,), on_bad="skip")
    with pytest.raises(DataError, match=r"rows\.jsonl: leaves nothing to teach"):
        prepare(train, chat, heldout_paths=(train,))


def test_what_the_template_refuses_is_named_with_its_line(write_jsonl: Write) -> None:
    wrong = "(m.role == 'user') != (loop.index0 % 2 == 0)"
    refusal = "{{ raise_exception('roles must alternate') }}"
    strict = templated(
        f"{{% for m in messages %}}{{% if {wrong} %}}{refusal}{{% endif %}}{{% endfor %}}{CHAT}"
    )
    twice = row(1)
    twice["messages"].insert(0, {"role": "user", "content": "Wait."})
    path = write_jsonl([*(row(n) for n in range(20)), twice])
    with pytest.raises(DataError, match=r"rows\.jsonl, line 21: .*roles must alternate.*--data.on-bad skip"):
        prepare(path, strict)
    lessons = prepare(path, strict, on_bad="skip")
    assert lessons.counts.num_examples == 20
    assert any("left out: 1 rows (refused by the template 1), like " in line for line in lessons.describe())
    assert prepare(path, templated(CHAT)).counts.num_examples == 21


def test_the_digest_is_that_of_what_is_taught(write_jsonl: Write, chat: Tokenizer) -> None:
    rows = [row(n) for n in range(30)]
    path = write_jsonl(rows)
    digest = prepare(path, chat).digest
    assert prepare(path, chat).digest == digest
    assert (
        prepare(path, templated(CHAT.replace("'\\n'", "': '").replace("assistant\\n", "assistant: "))).digest
        != digest
    )
    assert prepare(write_jsonl([*rows[:-1], row(99)]), chat).digest != digest
    assert prepare(write_jsonl(rows), chat, heldout_share=0.3).digest != digest


def test_the_time_of_a_template_is_that_of_the_run(write_jsonl: Write) -> None:
    """A run that is resumed on another day has the same lessons."""
    dated = templated("{{ strftime_now('%Y-%m-%d') }}" + CHAT)
    settings = ExampleSettings(paths=(write_jsonl([row(n) for n in range(20)]),))
    days = [datetime(2026, 5, day, 12) for day in (1, 1, 2)]
    first, same, other = (prepare_lessons(settings, dated, 4_096, SilentProgress(), day) for day in days)
    assert first.digest == same.digest != other.digest


def test_a_reply_of_weight_0_is_seen_but_not_taught(write_jsonl: Write) -> None:
    """Nor does the template see the weight."""
    shows_weight = templated(
        "{% for m in messages if m.weight is defined %}{{ 'weighed ' }}{% endfor %}" + CHAT
    )
    rows = [row(n, turns=3) for n in range(20)]
    for each in rows:
        each["messages"][1]["weight"] = each["messages"][3]["weight"] = 0
    rows[7]["messages"][3]["weight"] = 1
    lessons = prepare(write_jsonl(rows), shows_weight)
    found = {each.origin.rpartition(" ")[2]: each.sequences
             for each in (*lessons.train_examples, *lessons.heldout_examples)}  # fmt: skip
    assert [taught_text(shows_weight, sequence) for sequence in found["1"]] == ["It is 0.<|im_end|>"]
    assert [taught_text(shows_weight, sequence) for sequence in found["8"]] == ["It is 7.<|im_end|>" * 2]
    whole = shows_weight.decode(found["1"][0].ids.tolist())
    assert (whole.count("It is 0."), "weighed" in whole) == (3, False)
