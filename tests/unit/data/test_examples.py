"""Examples out of rows: the forms of public data sets, and how a row that does not fit is named."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import DataError, SettingsError
from tuition.data.examples import Example, ReadingLog, kind_of_data, read_examples
from tuition.data.settings import ExampleSettings

Write = Callable[..., Path]
Turns = list[tuple[str, str]]


def talk(*contents: str, system: str = "") -> list[dict[str, Any]]:
    """User and assistant in turn."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system else turns


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def read(path: Path, **settings: Any) -> list[Example]:
    return list(read_examples(ExampleSettings(paths=(path,), **settings)))


def turns(example: Example) -> Turns:
    return [(turn["role"], turn["content"]) for turn in example.messages]


PUBLIC: dict[str, tuple[dict[str, Any], Turns]] = {
    "OpenAI": (
        {"messages": talk("Hi", "Hello", "Bye", "See you", system="Be kind"), "parallel_tool_calls": False},
        [("system", "Be kind"), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"),
         ("assistant", "See you")],
    ),
    "OpenAI, parts of text": (
        {"messages": [{"role": "user", "content": [text_part("a"), text_part("b")]},
                      {"role": "assistant", "content": [text_part("c")]}]},
        [("user", "a\nb"), ("assistant", "c")],
    ),
    "OpenAI, legacy": ({"prompt": "2+2=", "completion": " 4"}, [("user", "2+2="), ("assistant", " 4")]),
    "TRL": (
        {"prompt": talk("Hi"), "completion": [{"role": "assistant", "content": "Hello"}]},
        [("user", "Hi"), ("assistant", "Hello")],
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "Below is an instruction ..."},
        [("user", "Add.\n\n1, 2"), ("assistant", "3")],
    ),
    "Alpaca without input": (
        {"instruction": "Say hi.", "input": "", "output": "Hi"}, [("user", "Say hi."), ("assistant", "Hi")]
    ),
    "Alpaca with system": (
        {"system": "Be kind", "instruction": "Say hi.", "input": "", "output": "Hi"},
        [("system", "Be kind"), ("user", "Say hi."), ("assistant", "Hi")],
    ),
    "Dolly": (
        {"instruction": "Who?", "context": "Ann came.", "response": "Ann", "category": "closed_qa"},
        [("user", "Who?\n\nAnn came."), ("assistant", "Ann")],
    ),
    "ShareGPT": (
        {"id": "x_0", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        [("user", "Hi"), ("assistant", "Hello")],
    ),
    "ShareGPT with system": (
        {"system": "Be kind", "conversations": [{"from": "human", "value": "a", "weight": None},
                                                {"from": "chatgpt", "value": "b", "weight": 1.0}]},
        [("system", "Be kind"), ("user", "a"), ("assistant", "b")],
    ),
    "UltraChat": (
        {"prompt": "Hi", "prompt_id": "f0", "messages": talk("Hi", "Hello")},
        [("user", "Hi"), ("assistant", "Hello")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_rows_of_public_data_sets_are_read(tmp_path: Path, name: str, kind: str) -> None:
    row, wanted = PUBLIC[name]
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist([row, row]), path)
    else:
        path.write_text(json.dumps([row, row], indent=1) if kind == "json" else f"{json.dumps(row)}\n" * 2)
    first, second = read(path)
    assert turns(first) == turns(second) == wanted
    assert first.identity == second.identity


CALL = {"name": "weather", "arguments": {"city": "Rome"}}
TOOL = {"name": "weather", "description": "The weather", "parameters": {"city": {"type": "str"}}}
WRAPPED = {"type": "function", "function": TOOL}
CALLS: dict[str, dict[str, Any]] = {
    "xLAM": {
        "id": 1, "query": "Rome?", "tools": json.dumps([TOOL]), "answers": json.dumps([CALL])
    },
    "OpenAI": {
        "tools": [WRAPPED],
        "messages": [*talk("Rome?"), {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function",
             "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]}],
    },
    "OpenAI, tools as text": {
        "tools": json.dumps([WRAPPED]),
        "messages": json.dumps([*talk("Rome?"), {"role": "assistant", "content": "", "tool_calls": [CALL]}]),
    },
    "OpenAI, one old call": {
        "tools": [TOOL],
        "messages": [*talk("Rome?"), {"role": "assistant", "function_call": CALL}],
    },
    "ShareGPT": {
        "tools": json.dumps([TOOL]),
        "conversations": [{"from": "human", "value": "Rome?"},
                          {"from": "function_call", "value": json.dumps(CALL)}],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_tools_are_read(write_jsonl: Write, name: str) -> None:
    (example,) = read(write_jsonl([CALLS[name]]))
    assert example.tools == (WRAPPED,)
    question, reply = example.messages
    assert (question["role"], question["content"]) == ("user", "Rome?")
    assert (reply["role"], reply["content"]) == ("assistant", "")
    (call,) = reply["tool_calls"]
    assert call["function"] == CALL


def test_results_of_tools_are_turns(write_jsonl: Write) -> None:
    calls = [{"from": "human", "value": "Rome?"}, {"from": "function_call", "value": json.dumps(CALL)},
             {"from": "observation", "value": "sunny"}, {"from": "gpt", "value": "Sunny."}]  # fmt: skip
    (example,) = read(write_jsonl([{"conversations": calls}]))
    assert turns(example)[2:] == [("tool", "sunny"), ("assistant", "Sunny.")]
    call = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": CALL}]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
    messages = [*talk("Rome?"), call, result, {"role": "assistant", "content": "Sunny."}]
    (example,) = read(write_jsonl([{"messages": messages}], "b.jsonl"))
    assert example.messages[1]["tool_calls"][0]["id"] == example.messages[2]["tool_call_id"] == "c1"


def test_two_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["question", "answer", "n"], ["Why?", 'He said "so",\nand left.', "1"]])
    with pytest.raises(DataError, match=r"--data\.prompt-field question --data\.completion-field answer"):
        read(path)
    (example,) = read(path, prompt_field="question", completion_field="answer")
    assert turns(example) == [("user", "Why?"), ("assistant", 'He said "so",\nand left.')]


def test_a_field_with_turns_can_be_named(write_jsonl: Write) -> None:
    """UltraChat's first release holds the texts alone: the user begins."""
    path = write_jsonl([{"id": "0", "data": ["Hi", "Hello", "Bye", "See you"]}])
    with pytest.raises(
        DataError, match=r"no row has the fields of a known form.*it has id, data;.*messages-field"
    ):
        read(path)
    (example,) = read(path, messages_field="data")
    assert turns(example) == [
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Bye"),
        ("assistant", "See you"),
    ]


def test_a_file_of_several_forms_is_refused_until_one_is_chosen(write_jsonl: Write) -> None:
    both = {"messages": talk("a", "b"), "prompt": "c", "completion": "d"}
    pair = {"prompt": "e", "completion": "f"}
    path = write_jsonl([*[pair] * 1500, both])
    with pytest.raises(
        DataError, match=r"messages in 1 rows, pairs in 1,501 rows.*--data.form messages or --data"
    ):
        read(path)
    assert len(read(path, form="pairs")) == 1501
    with pytest.raises(
        DataError, match=r"line 1: lacks a field of the form messages .*it has prompt, completion"
    ):
        read(path, form="messages")
    assert [turns(each) for each in read(path, form="messages", on_bad="skip")] == [
        [("user", "a"), ("assistant", "b")]
    ]


def test_the_form_is_said_once(write_jsonl: Write, tmp_path: Path) -> None:
    said: list[str] = []

    class Listener:
        def __getattr__(self, name: str) -> Any:
            from tuition.core.progress import SilentProgress

            return said.append if name == "say" else getattr(SilentProgress(), name)

    for number in range(3):
        write_jsonl([{"prompt": "a", "completion": f"{number}"}], f"data/{number}.jsonl")
    write_jsonl([{"messages": talk("a", "b")}], "data/x.jsonl")
    (tmp_path / "data" / "y.csv").write_text("prompt;completion\n2,5;c\n")
    settings = ExampleSettings(paths=(tmp_path / "data",))
    assert len(list(read_examples(settings, progress=Listener()))) == 5
    assert said == [
        "3 files (0.jsonl, ...): read as pairs (prompt, completion)",
        "x.jsonl: read as messages (messages)",
        "y.csv: read as pairs (prompt, completion), cells separated by ';'",
    ]


BAD: dict[str, tuple[Any, str]] = {
    "no messages": ({"messages": []}, "the field 'messages' holds no turns"),
    "no list": ({"messages": 3}, "the field 'messages' is a number, wanted a list of turns"),
    "no JSON": ({"messages": "[{'role': 'user'}]"}, "the field 'messages' is a text that is no JSON"),
    "no object": ({"messages": [*talk("a"), 3]}, r"'messages\[1\]' is a number, wanted an object"),
    "no role": ({"messages": [{"content": "a"}]}, r"the field 'messages\[0\]' has no role"),
    "role": ({"messages": [{"role": "bot", "content": "a"}]}, r"messages\[0\].role' is 'bot', wanted"),
    "content": ({"messages": [{"role": "user"}]}, r"the field 'messages\[0\].content' is null, not a text"),
    "number": ({"messages": [{"role": "user", "content": 3}]}, r"\[0\].content' is a number, not a text"),
    "picture": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
                r"messages\[0\].content\[0\]' is a part of type 'image_url'; only text parts are taught"),
    "nobody answers": ({"messages": talk("a")}, "has no turn of the assistant that is taught"),
    "empty reply": ({"messages": talk("a", " \n")}, "turn 2 is an empty reply of the assistant"),
    "empty reply amid": ({"messages": talk("a", "", "b", "c")}, "turn 2 is an empty reply"),
    "weight": ({"messages": [*talk("a"), {"role": "assistant", "content": "b", "weight": 0.5}]},
               "the weight 0.5 of a turn is neither 0 nor 1"),
    "half a character": ({"messages": talk("a", "b\ud800")}, "holds half of a surrogate pair"),
    "arguments": ({"messages": [*talk("a"), {"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": "{x"}}]}]}, r"tool_calls\[0\].arguments' is no JSON object"),
    "tools": ({"messages": talk("a", "b"), "tools": [{"type": "web_search"}]}, r"tools\[0\]' names no f"),
    "functions": ({"messages": talk("a", "b"), "functions": [TOOL]}, "'functions' is not supported"),
    "from": ({"conversations": [{"from": "me", "value": "a"}]}, r"conversations\[0\].from' is 'me', wanted"),
    "value": ({"conversations": [{"from": "gpt", "value": 3}]}, r"\[0\].value' is a number, not"),
    "completion": ({"prompt": "a", "completion": " "}, "the field 'completion' is empty"),
    "prompt": ({"prompt": "", "completion": "b"}, "the field 'prompt' is empty"),
    "output": ({"instruction": "a", "input": "", "output": ""}, "the field 'output' is empty"),
    "both": ({"instruction": "a", "output": "b", "response": "c"}, "has both 'output' and 'response'"),
    "history": ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "'history' is not supported"),
    "answers": ({"query": "a", "tools": [TOOL], "answers": "[]"}, "the field 'answers' is empty"),
    "missing": ({"prompt": "a", "label": 3}, r"lacks a field of the form pairs \(prompt, com"),
    "JSON": ("{", "is no JSON"),
}  # fmt: skip
GOOD = {
    "messages": {"messages": talk("a", "b")},
    "conversations": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "prompt": {"prompt": "a", "completion": "b"},
    "instruction": {"instruction": "a", "output": "b"},
    "query": {"query": "a", "tools": [TOOL], "answers": [CALL]},
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_does_not_fit_is_named_or_skipped_and_counted(write_jsonl: Write, name: str) -> None:
    row, problem = BAD[name]
    good = GOOD["messages" if isinstance(row, str) else next(key for key in GOOD if key in row)]
    path = write_jsonl([good, row, good])
    with pytest.raises(
        DataError, match=rf"rows\.jsonl, line 2: .*{problem}.*; --data.on-bad skip leaves such rows"
    ):
        read(path)
    log = ReadingLog()
    settings = ExampleSettings(paths=(path,), on_bad="skip")
    assert [each.line for each in read_examples(settings, log=log)] == [1, 3]
    assert (log.counts.num_documents, log.counts.num_skipped) == (2, 1)
    assert "rows.jsonl, line 2: " in log.counts.examples[0]


def test_what_follows_the_last_reply_is_left_out_and_counted(write_jsonl: Write) -> None:
    """Conversations of public data sets often end with the user."""
    log = ReadingLog()
    path = write_jsonl([{"messages": talk("a", "b", "c")}, {"messages": talk("a", "b")}])
    first, second = read_examples(ExampleSettings(paths=(path,)), log=log)
    assert turns(first) == turns(second) == [("user", "a"), ("assistant", "b")]
    assert (first.identity == second.identity, log.num_trimmed) == (True, 1)


def test_roles_may_follow_each_other_in_any_order(write_jsonl: Write) -> None:
    """Whether the model can show them is for its template to say."""
    messages = [*talk("a"), *talk("b", "c"), {"role": "assistant", "content": "d"}]
    (example,) = read(write_jsonl([{"messages": messages}]))
    assert [role for role, _ in turns(example)] == ["user", "user", "assistant", "assistant"]


def test_replies_of_weight_0_are_kept_for_the_prompt(write_jsonl: Write) -> None:
    """OpenAI's files mark so what is not taught; in TRL's prompts nothing is."""
    first = {"role": "assistant", "content": "b", "weight": 0}
    path = write_jsonl([{"messages": [*talk("a"), first, *talk("c", "d")]}])
    (example,) = read(path)
    assert [turn.get("weight") for turn in example.messages] == [None, 0, None, None]
    pair = {"prompt": talk("a", "b", "c"), "completion": [{"role": "assistant", "content": "d"}]}
    (other,) = read(write_jsonl([pair], "b.jsonl"))
    assert [turn.get("weight") for turn in other.messages] == [None, 0, None, None]
    with pytest.raises(DataError, match="has no turn of the assistant that is taught"):
        read(write_jsonl([{"messages": [*talk("a"), first]}], "c.jsonl"))


def test_prompts_stay_plain_text_where_that_is_wanted(write_jsonl: Write) -> None:
    def plain(row: dict[str, Any]) -> tuple[str | None, str | None]:
        path = write_jsonl([row])
        (example,) = read_examples(ExampleSettings(paths=(path,)), style="plain")
        assert example.messages == ()
        return example.prompt, example.completion

    assert plain({"prompt": "2+2=", "completion": "4"}) == ("2+2=", "4")
    assert plain({"instruction": "Add.", "input": "1, 2", "output": "3"}) == ("Add.\n\n1, 2\n\n", "3")
    with pytest.raises(DataError, match="line 1: holds conversations, which cannot be taught as plain text"):
        plain({"messages": talk("a", "b")})


def test_copies_with_other_spacing_have_one_identity(write_jsonl: Write) -> None:
    texts = [("caf\u00e9 au  lait", "yes"), ("cafe\u0301 au\nlait ", " yes"), ("cafe au lait", "yes"),
             ("caf\u00e9 au lait", "no"), ("caf\u00e9 au lait yes", "")]  # fmt: skip
    rows = [{"messages": talk(*pair)} for pair in texts[:4]]
    first, same, other, another = (example.identity for example in read(write_jsonl(rows)))
    assert first == same
    assert len({first, other, another}) == 3
    (pair,) = read(write_jsonl([{"prompt": "café au lait", "completion": "yes"}], "b.jsonl"))
    assert pair.identity == first


def test_groups_come_from_a_field(write_jsonl: Write) -> None:
    row = {"prompt": "a", "completion": "b"}
    path = write_jsonl([row | {"customer": "x"}, row | {"customer": 7}, row])
    problem = "line 3: the field 'customer' is missing; .*leave out --data.group-field"
    with pytest.raises(DataError, match=problem):
        read(path, group_field="customer")
    found = read(path, group_field="customer", on_bad="skip")
    assert [example.group for example in found] == ["x", "7"]


def test_absent_fields_of_a_table_are_not_taken_for_values(tmp_path: Path) -> None:
    """In a table every struct has every field: what a row does not have is null there."""
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    rows = [
        {"messages": [*talk("a"), {"role": "assistant", "content": None, "tool_calls": [
            {"function": {"name": name, "arguments": {key: "x"}}}]}]}
        for name, key in (("f", "city"), ("g", "day"))
    ]  # fmt: skip
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    calls = [example.messages[1]["tool_calls"][0]["function"] for example in read(path)]
    assert calls == [{"name": "f", "arguments": {"city": "x"}}, {"name": "g", "arguments": {"day": "x"}}]


def test_a_row_of_a_table_whose_turns_are_no_utf8_is_named(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    rows = [{"messages": [{name: text.encode() for name, text in turn.items()} for turn in talk("a", "b")]}
            for _ in range(3)]  # fmt: skip
    rows[1]["messages"][1]["content"] = b"\xff"
    texts = arrow.list_(arrow.struct([("role", arrow.string()), ("content", arrow.string())]))
    column = arrow.Table.from_pylist(rows).column("messages").combine_chunks().view(texts)
    path = tmp_path / "rows.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table({"messages": column}), path)
    with pytest.raises(DataError, match=r"line 2: holds text that is no UTF-8 \(byte 0xff\)"):
        read(path)
    assert [example.line for example in read(path, on_bad="skip")] == [1, 3]


def test_a_folder_gives_its_files_of_examples(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl([{"prompt": "a", "completion": "b"}], "data/a.jsonl")
    (tmp_path / "data/b.csv").write_text("prompt,completion\nc,d\n")
    (tmp_path / "data/notes.txt").write_text("not an example")
    (tmp_path / "data/dataset_info.json").write_text('{"splits": [{"name": "train"}]}')
    assert [example.path.name for example in read(tmp_path / "data")] == ["a.jsonl", "b.csv"]
    with pytest.raises(DataError, match=r"notes\.txt: is plain text and holds no examples"):
        read(tmp_path / "data/notes.txt")


def test_the_kind_of_data_is_seen_from_its_rows(tmp_path: Path, write_jsonl: Write) -> None:
    def kind(path: Path, **settings: Any) -> str:
        return kind_of_data(ExampleSettings(paths=(path,), **settings))

    (tmp_path / "a.txt").write_text("hello")
    assert kind(tmp_path / "a.txt") == "text"
    assert kind(write_jsonl([{"text": "hello"}])) == "text"
    with pytest.raises(DataError, match=r"no row has the fields of a known form .*it has question, answer"):
        kind(write_jsonl([{"question": "a", "answer": "b"}]))
    assert kind(write_jsonl([{"question": "a", "answer": "b"}]), prompt_field="question",
                completion_field="answer") == "examples"  # fmt: skip
    assert kind(write_jsonl([{"text": "hello", "prompt": "a", "completion": "b"}])) == "examples"


def test_options_that_do_not_fit_together_are_refused() -> None:
    for settings, wanted in (
        ({"prompt_field": "q"}, "go together"),
        ({"completion_field": "a"}, "go together"),
        ({"prompt_field": "q", "completion_field": "a", "form": "pairs"}, "only one of"),
        ({"messages_field": "m", "form": "messages"}, "only one of"),
        ({"heldout_share": 0.0}, "more than 0"),
        ({"heldout_max": 0}, "at least 1"),
        ({"group_field": ""}, "the name of a field"),
    ):
        with pytest.raises(SettingsError, match=wanted):
            ExampleSettings(**settings)  # type: ignore[arg-type]
