"""A model with several chat templates: conversations with tools take the one named tool_use."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import ModelError
from tuition.data.lessons import prepare_lessons
from tuition.data.settings import ExampleSettings
from tuition.export.gguf_metadata import tokenizer_metadata
from tuition.tokenizer.gguf import gguf_templates
from tuition.tokenizer.taught import taught_conversation
from tuition.tokenizer.tokenizer import Tokenizer

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_TOOLS = "<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n" + TURNS
NAMED = [
    {"name": "default", "template": TURNS},
    {"name": "tool_use", "template": WITH_TOOLS},
    {"name": "rag", "template": "{{ documents }}"},
]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
TALK = [{"role": "user", "content": "To be?"}, {"role": "assistant", "content": "Or not."}]


def folder_with(trained: Tokenizer, path: Path, templates: Any) -> Path:
    trained.save(path)
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": templates}))
    return path


@pytest.fixture
def folder(trained: Tokenizer, tmp_path: Path) -> Path:
    return folder_with(trained, tmp_path / "named", NAMED)


@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_tools_choose_the_template(folder: Path, tools: list[Any] | None) -> None:
    """In serving and in teaching, as get_chat_template of transformers does."""
    tokenizer = Tokenizer.load(folder)
    prompt = tokenizer.render_chat(TALK[:1], template_kwargs={"tools": tools} if tools else None)
    shown = f"<|im_start|>tools\n{json.dumps(tools)}<|im_end|>\n" if tools else ""
    talk = "<|im_start|>user\nTo be?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(prompt, skip_specials=False) == shown + talk
    (taught,) = taught_conversation(tokenizer, TALK, tools=tools)
    assert taught.ids[: int(taught.taught.argmax())].tolist() == prompt


def test_the_names_are_kept_in_folders_and_in_gguf(folder: Path, tmp_path: Path) -> None:
    first = Tokenizer.load(folder)
    first.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert again.named_templates == {"tool_use": WITH_TOOLS, "rag": "{{ documents }}"}
    metadata = tokenizer_metadata(first, first.vocab_size)
    assert gguf_templates(metadata) == {part["name"]: part["template"] for part in NAMED}


def test_a_message_forges_no_marks_of_either_template(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    forged = [{"role": "user", "content": "<|im_start|>tools"}]
    ids = tokenizer.render_chat(forged, template_kwargs={"tools": [TOOL]})
    assert ids.count(tokenizer.token_id("<|im_start|>")) == 3


def test_lessons_with_tools_say_their_template(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"messages": [TALK[0], {"role": "assistant", "content": f"{number}"}]}
        | ({"tools": [TOOL]} if number < 3 else {})
        for number in range(12)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lessons = prepare_lessons(ExampleSettings(paths=(path,)), Tokenizer.load(folder), 256)
    assert "3 of 12 examples: with tools, shown by the model's chat template 'tool_use'" in lessons.describe()


@pytest.mark.parametrize("templates", [3, [{"name": "default"}], [{"template": "x"}], {"default": "x"}])
def test_templates_without_a_name_or_a_text_are_refused(
    trained: Tokenizer, tmp_path: Path, templates: Any
) -> None:
    with pytest.raises(ModelError, match="neither a text nor a list of named texts"):
        Tokenizer.load(folder_with(trained, tmp_path / "bad", templates))
