"""`tuition eval --tasks` and `tuition compare` on a tiny model: what is asked, judged, kept and paid."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from server_thread import start_server
from tuition.books.books import open_books
from tuition.core.progress import SilentProgress
from tuition.core.workspace import Workspace
from tuition.desk.engine import Engine
from tuition.engine.settings import EngineSettings
from tuition.serve.context import ServeContext
from tuition.serve.served import open_served
from tuition.serve.settings import ServeSettings
from tuition.spec.machine import detect_machine

TORCH = ("--runner", "torch")
ENGINE = ("--engine.runner", "torch")
PROMPTS = ("The cat", "The dog", "A bird", "In the tree")
CHAT = (
    "{{ mood | default('') }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def task_file(path: Path, header: dict[str, Any], items: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in ({"task": path.stem} | header, *items)))
    return str(path)


@pytest.fixture
def replies(home: Path) -> list[str]:
    """What the tiny model says to `PROMPTS`, asked in another way than by the verbs."""
    settings = EngineSettings(runner="torch")
    with Engine("tiny", workspace=Workspace(home), settings=settings) as engine:
        found = engine.generate(PROMPTS, max_tokens=6, temperature=0.0)
    return [reply.text for reply in found]


@pytest.fixture
def chatty(home: Path, tmp_path: Path) -> str:
    """The tiny model as a folder of others: with a chat template."""
    folder = shutil.copytree(next(home.glob("models/tiny/1")), tmp_path / "chatty")
    (folder / "tuition.json").unlink()
    (folder / "chat_template.jinja").write_text(CHAT)
    return str(folder)


def receipts(tuition: Any, limit: int) -> list[dict[str, Any]]:
    return json.loads(tuition("bill", "request", "--format", "json", "--limit", str(limit))[1])


def test_right_answers_are_counted_and_paid(tuition, replies: list[str], tmp_path: Path) -> None:
    items = [
        {"prompt": prompt, "target": reply.strip()} for prompt, reply in zip(PROMPTS, replies, strict=True)
    ]
    items[1]["target"] = "something else"
    task = task_file(tmp_path / "sayings.jsonl", {"kind": "exact", "max_tokens": 6}, items)
    status, out, err = tuition(
        "eval", "tiny", "--tasks", task, *TORCH, "--keep", str(tmp_path / "kept.jsonl")
    )
    assert status == 0, err
    assert re.search(r"^sayings +4 +75\.0 +0\.0 to 100\.0|^sayings +4 +75\.0 +25\.0 to 100\.0", out, re.M), (
        out
    )
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert [row["reply"] for row in kept] == replies
    assert [row["right"] for row in kept] == [True, False, True, True]
    paid = receipts(tuition, 4)
    assert sum(row["cost_nusd"] for row in kept) == pytest.approx(1e9 * sum(row["cost_usd"] for row in paid))
    assert sum(row["generated_tokens"] for row in kept) == sum(row["generated_tokens"] for row in paid)
    assert "0.7500 ± 0.2165 sayings accuracy" in tuition("models", "show", "tiny")[1]


def test_a_comparison_takes_over_what_was_kept_and_pairs_the_items(
    tuition, replies: list[str], chatty: str, tmp_path: Path
) -> None:
    """Both models have the same weights: in the chat form one of them is asked differently."""
    items = [
        {"prompt": prompt, "target": reply.strip()} for prompt, reply in zip(PROMPTS, replies, strict=True)
    ]
    task = task_file(tmp_path / "twice.jsonl", {"kind": "exact", "max_tokens": 6}, items)
    assert tuition("eval", "tiny", "--tasks", task, *TORCH)[0] == 0
    before = receipts(tuition, 1)
    status, out, err = tuition("compare", "tiny", "tiny@1", "--tasks", task, *ENGINE)
    assert status == 0, err
    assert receipts(tuition, 1) == before, "nothing is asked again"
    assert re.search(r"^twice +a tiny@1 +4 +100\.0", out, re.M)
    assert re.search(r"^twice +\+0\.0 +\+0\.0 to \+0\.0 +1\.0000 +exact McNemar +0 +0$", out, re.M)
    assert out.count("kept result of ") == 2
    assert "nothing was asked again" in out
    priced = ("--machine.usd-per-hour", "7")
    out = tuition("compare", "tiny", "tiny@1", "--tasks", task, *ENGINE, *priced)[1]
    assert out.count("kept result of ") == 1, "at another price an answer costs something else; b is a"
    out = tuition("compare", "tiny", chatty, "--tasks", task, *ENGINE, "--again")[1]
    assert "kept result of" not in out
    assert (
        len({row["request_id"] for row in receipts(tuition, 9)} - {row["request_id"] for row in before}) >= 8
    )


def test_items_that_changed_are_shown_with_both_replies(tuition, home: Path, tmp_path: Path) -> None:
    """A model with other weights answers in another way."""
    other = shutil.copytree(next(home.glob("models/tiny/1")), tmp_path / "other")
    (other / "tuition.json").unlink()
    from safetensors.numpy import load_file, save_file

    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= -1  # the least likely token becomes the most likely one
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with Engine("tiny", workspace=Workspace(home), settings=EngineSettings(runner="torch")) as engine:
        said = [reply.text.strip() for reply in engine.generate(PROMPTS, max_tokens=6, temperature=0.0)]
    items = [{"prompt": prompt, "target": reply} for prompt, reply in zip(PROMPTS, said, strict=True)]
    task = task_file(tmp_path / "changed.jsonl", {"kind": "exact", "max_tokens": 6}, items)
    status, out, err = tuition("compare", str(other), "tiny", "--tasks", task, *ENGINE, "--show", "2")
    assert status == 0, err
    assert "changed: only b has right 4 items" in out
    assert len(re.findall(r"^      a: ", out, re.M)) == 2
    assert f"b: {' '.join(said[0].split())}" in out
    assert re.search(r"^changed +\+100\.0 .* 0\.1250 +exact McNemar +4 +0$", out, re.M)


def test_the_most_likely_choice_is_taken_per_byte_where_the_header_says_so(
    tuition, home: Path, tmp_path: Path
) -> None:
    choices = ["sat on the mat. The dog sat on the log.", "x"]
    with Engine("tiny", workspace=Workspace(home), settings=EngineSettings(runner="torch")) as engine:
        scores = []
        for choice in choices:
            ids = engine.encode(f"The cat {choice}")
            request = engine.request(ids, max_tokens=0, prompt_logprobs=0)
            (reply,) = engine.run([request])
            told = (reply.prompt_logprobs or ())[len(engine.encode("The cat")) :]
            scores.append(sum(token.logprob or 0.0 for token in told))
    sizes = [len(choice) for choice in choices]
    picks = {
        "none": max(range(2), key=lambda i: scores[i]),
        "bytes": max(range(2), key=lambda i: scores[i] / sizes[i]),
    }
    assert picks["none"] != picks["bytes"], "else the test shows nothing"
    for normalize, pick in picks.items():
        header = {"kind": "choice", "normalize": normalize}
        items = [{"prompt": "The cat", "choices": choices, "right": pick}]
        task = task_file(tmp_path / f"ends-{normalize}.jsonl", header, items)
        kept = tmp_path / f"{normalize}.jsonl"
        assert tuition("eval", "tiny", "--tasks", task, *TORCH, "--keep", str(kept))[0] == 0
        row = json.loads(kept.read_text())
        assert row["right"], row
        assert row["logprobs"] == pytest.approx(scores, abs=1e-4)  # float32, in other batches
        assert row["generated_tokens"] == 0


def test_a_chat_task_is_asked_with_the_models_template(
    tuition, chatty: str, home: Path, tmp_path: Path
) -> None:
    header = {"kind": "regex", "form": "chat", "system": "Be short.", "max_tokens": 6}
    header |= {"chat_template_kwargs": {"mood": "glad"}}
    task = task_file(tmp_path / "chats.jsonl", header, [{"prompt": "The cat", "target": "."}])
    kept = tmp_path / "kept.jsonl"
    status, _, err = tuition("eval", chatty, "--tasks", task, *TORCH, "--keep", str(kept))
    assert status == 0, err
    with Engine(Path(chatty), workspace=Workspace(home), settings=EngineSettings(runner="torch")) as engine:
        messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "The cat"}]
        ids = engine.tokenizer.render_chat(messages, template_kwargs={"mood": "glad"})
        (said,) = (reply.text for reply in engine.generate([ids], max_tokens=6, temperature=0.0))
        assert ids != engine.tokenizer.render_chat(messages)
    assert json.loads(kept.read_text())["reply"] == said
    assert json.loads(kept.read_text())["prompt_tokens"] == len(ids)
    status, _, err = tuition("eval", "tiny", "--tasks", task, *TORCH)
    assert status == 2
    assert "form: got 'chat', wanted plain for this model, which has no chat template" in err


def test_a_function_of_the_user_judges(tuition, replies: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def half(item, reply): return 0.5 if reply == item['wish'] else 0\n")
    header = {"kind": "python", "function": "own.py:half", "max_tokens": 6}
    items = [{"prompt": "The cat", "wish": replies[0]}, {"prompt": "The dog", "wish": "?"}]
    task = task_file(tmp_path / "judged.jsonl", header, items)
    status, out, err = tuition("eval", "tiny", "--tasks", task, *TORCH)
    assert status == 0, err
    assert re.search(r"^judged +2 +0\.0 .* 25\.0 ", out, re.M), out


def test_what_cannot_be_asked_is_refused_before_anything_is_computed(tuition, tmp_path: Path) -> None:
    long = task_file(tmp_path / "long.jsonl", {"kind": "exact"}, [{"prompt": "cat " * 200, "target": "a"}])
    status, _, err = tuition("eval", "tiny", "--tasks", long, *TORCH)
    assert status == 1
    assert re.search(r"long\.jsonl: item 2: .*context", err), err
    good = task_file(tmp_path / "good.jsonl", {"kind": "exact"}, [{"prompt": "cat", "target": "a"}])
    for words, message in (
        (("eval", "tiny", "--tasks", good, good), "tasks: got \"two of the name 'good'\""),
        (("eval", "tiny", "--tasks", good, "--stride", "3"), "stride: got 3, wanted it without --tasks"),
        (("eval", "tiny", "--tasks", good, "--data.field", "b"), "--data.field: got 'b', wanted it without"),
        (("eval", "tiny", "--tasks", good, "--keep", good), "wanted another file: this one is a task"),
        (("compare", "tiny", "tiny", "--tasks", good, "--keep", str(tmp_path)), "wanted a file; this is a"),
        (("eval", "tiny", "--keep", "x"), "keep: got 'x', wanted --tasks beside it"),
        (("compare", "tiny", "tiny"), "tasks: nothing given, wanted --tasks with at least one task file"),
        (("eval", "nobody", "--tasks", good), "no model named 'nobody'"),
    ):
        status, _, err = tuition(*words)
        assert status, words
        assert message in err
    assert Path(good).read_text().count("\n") == 2


def test_a_model_behind_a_server_is_asked_the_same(tuition, home: Path, chatty: str, tmp_path: Path) -> None:
    """Replies, tokens and cost of every item come over HTTP; choices need the model itself."""
    chats = {"kind": "regex", "form": "chat", "max_tokens": 6}
    items = [{"prompt": prompt, "target": "(?s)."} for prompt in PROMPTS]
    task = task_file(tmp_path / "served.jsonl", chats, items)
    near, far = tmp_path / "near.jsonl", tmp_path / "far.jsonl"
    assert tuition("eval", chatty, "--tasks", task, *TORCH, "--keep", str(near))[0] == 0
    workspace, settings = Workspace(tmp_path / "served").create(), EngineSettings(runner="torch")
    with open_books(workspace) as books, open_served(
        [chatty, str(next(home.glob("models/tiny/1")))], workspace=workspace, books=books,
        machine=detect_machine(), settings=settings, progress=SilentProgress(),
    ) as models, start_server(ServeContext(models, books, ServeSettings(port=0))) as server:  # fmt: skip
        address = f"{server.url}#chatty"
        status, out, err = tuition("eval", address, "--tasks", task, "--keep", str(far))
        assert status == 0, err
        plain = task_file(
            tmp_path / "plain.jsonl",
            {"kind": "exact", "stop": ["x"], "max_tokens": 3},
            [{"prompt": "a", "target": "b"}],
        )
        assert tuition("eval", address, "--tasks", plain)[0] == 0
        choice = {"prompt": "The", "choices": ["cat", "dog"], "right": 0}
        ends = task_file(tmp_path / "ends.jsonl", {"kind": "choice"}, [choice])
        long = task_file(
            tmp_path / "long.jsonl", {"kind": "exact"}, [{"prompt": "cat " * 200, "target": "a"}]
        )
        for url, path, message in (
            (address, ends, "kind: got 'choice', wanted a kind whose reply is generated"),
            (server.url, task, f"known: {server.url}#"),
            (f"{server.url}#other", task, "no model at the server named"),
            (address, long, "item 2: "),
        ):
            status, _, err = tuition("eval", url, "--tasks", path)
            assert status, url
            assert message in err
    rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in (near, far)]
    for name in ("id", "reply", "right", "prompt_tokens", "generated_tokens"):
        assert [row[name] for row in rows[0]] == [row[name] for row in rows[1]], name
    assert all(row["cost_nusd"] > 0 for row in rows[1])
    assert re.search(r"^served +4 +\d", out, re.M)
