"""llama.cpp's own tools as a side: its batched bench decodes, its bench reads prompts, its perplexity judges.

In: a `Task`.  Out: rows like everybody's. Each batch size runs in a process of its own, so that no cache is
larger than it need be; the tools warm up by themselves. They draw no sample and write no text, we do both.
"""

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peers import task as protocol
from peers.process import Finished, ProcessError, run_process
from peers.task import Answer, Task

_FIGURE = r"\s*[:=]\s*(-?[0-9.]+(?:e[+-]?\d+)?)"
_QUALITY = {
    "perplexity": re.compile(r"Mean PPL\(Q\)" + _FIGURE),
    "base_perplexity": re.compile(r"Mean PPL\(base\)" + _FIGURE),
    "log_ratio": re.compile(r"Mean ln\(PPL\(Q\)/PPL\(base\)\)" + _FIGURE),
    "kl": re.compile(r"Mean\s+KLD" + _FIGURE),
}
_FINAL = re.compile(r"Final estimate: PPL" + _FIGURE)

_LOAD = re.compile(r"load time" + _FIGURE + " ms")

_TRIES = 3


class Builds:
    """The builds that were installed; of each file the fastest one is used, found by trying all."""

    def __init__(self, builds: Sequence[Mapping[str, Any]], root: Path) -> None:
        self._builds = {build["compiler"]: root / build["tools"] for build in builds}
        self._chosen: dict[str, tuple[str, dict[str, Any]]] = {}

    def tools(self, task: Task) -> Path:
        """The tools for this file. Raises: ProcessError when no build runs it."""
        return self._builds[self._choice(task)[0]]

    def facts(self, task: Task) -> dict[str, Any]:
        """Which build it is, and what every build did."""
        compiler, tried = self._choice(task)
        return {"runner": f"llama.cpp, {compiler}", "builds": tried}

    def _choice(self, task: Task) -> tuple[str, dict[str, Any]]:
        if task.model not in self._chosen:
            tried: dict[str, Any] = {}
            for compiler, tools in self._builds.items():
                try:
                    tried[compiler] = try_build(task, tools)
                except (ProcessError, ValueError) as error:  # an illegal instruction, or no figures
                    tried[compiler] = {"failed": str(error)}
            scores = {compiler: found["score"] for compiler, found in tried.items() if "score" in found}
            if not scores:
                raise ProcessError(f"no build of llama.cpp runs {task.model}: {tried}")
            self._chosen[task.model] = max(scores, key=lambda compiler: scores[compiler]), tried
        return self._chosen[task.model]


def try_build(task: Task, tools: Path) -> dict[str, float]:
    """Tokens per second of one build, reading and writing, and their geometric mean. Raises: ProcessError."""
    done = run_process(
        (str(tools / "llama-bench"), "-m", task.model, "-t", str(task.threads), "-p", "256", "-n", "24",
         "-r", "2", "-o", "json")
    )  # fmt: skip
    rates = {"write" if row["n_gen"] else "read": statistics.median(row["samples_ts"])
             for row in json.loads(done.stdout)}  # fmt: skip
    if set(rates) != {"read", "write"}:
        raise ProcessError(f"llama-bench measured {sorted(rates) or 'nothing'}")
    return rates | {"score": math.sqrt(rates["read"] * rates["write"])}


def measure(task: Task, builds: Builds) -> Answer:
    """Decode, prefill, start and memory, with the fastest build for this file. Raises: ProcessError."""
    tools = builds.tools(task)
    rows: list[dict[str, Any]] = []
    if "decode" in task.what:
        rows += [decode(task, batch, tools)[0] for batch in task.batches]
    if "prefill" in task.what:
        lengths = ",".join(map(str, task.prefill))
        done = run_process(
            (str(tools / "llama-bench"), "-m", task.model, "-t", str(task.threads), "-p", lengths, "-n", "0",
             "-r", str(protocol.PREFILL_REPEATS), "-o", "json")
        )  # fmt: skip
        rows += read_bench(done.stdout)
    if "start" in task.what:
        rows += [start(task, tools), protocol.memory_row(task, decode(task, 1, tools)[1].peak_bytes)]
    return Answer(rows, builds.facts(task))


def decode(task: Task, batch: int, tools: Path) -> tuple[dict[str, Any], Finished]:
    """The row of one batch size, and its process. Raises: ProcessError."""
    done = run_printing((
        str(tools / "llama-batched-bench"), "-m", task.model, "-t", str(task.threads),
        "-tb", str(task.threads), "-c", str(batch * (task.prompt + task.generate)),
        "-npp", str(task.prompt), "-ntg", str(task.generate), "-npl", str(batch), "--output-format", "jsonl",
    ))  # fmt: skip
    return read_batched(done.stdout, task, batch), done


def run_printing(command: tuple[str, ...]) -> Finished:
    """Run until something was printed: the batched bench sometimes ends well before its log is written.

    Raises: ProcessError.
    """
    for _ in range(_TRIES):
        done = run_process(command)
        if done.stdout.strip():
            return done
    raise ProcessError(f"{command[0]} printed nothing, {_TRIES} times")


def start(task: Task, tools: Path) -> dict[str, Any]:
    """A process from its start to the first token, its end included. Raises: ProcessError."""
    done = run_process(
        (str(tools / "llama-completion"), "-m", task.model, "-t", str(task.threads), "-p", "The", "-n", "1",
         "-c", "256", "-no-cnv", "--no-warmup")
    )  # fmt: skip
    found = _LOAD.search(done.stderr)
    return {"what": "start", "seconds": done.wall_s, "load_s": float(found[1]) / 1_000 if found else None}


def read_batched(output: str, task: Task, batch: int) -> dict[str, Any]:
    """The row of one batch size in the batched bench's JSON lines. Raises: ProcessError without it."""
    for line in output.splitlines():
        if line.startswith("{") and '"speed_tg"' in line:
            found = json.loads(line)
            if found["pl"] == batch:
                return protocol.decode_row(batch, task, found["speed_tg"], found["t_pp"])
    raise ProcessError(f"llama-batched-bench has no row for batch {batch}: {output.strip()[-400:]}")


def read_bench(output: str) -> list[dict[str, Any]]:
    """Prefill rows of llama-bench's JSON; the median of its repeats."""
    return [
        protocol.prefill_row(row["n_prompt"], statistics.median(row["samples_ts"]))
        for row in json.loads(output)
        if row["n_gen"] == 0
    ]


def quantise(source: Path, target: Path, kind: str, tools: Path) -> None:
    """Another number format by llama.cpp's own hand; embedding in 8 bits, as ours. Raises: ProcessError."""
    run_process(
        (str(tools / "llama-quantize"), "--token-embedding-type", "q8_0", "--output-tensor-type", "q8_0",
         str(source), str(target), kind.upper())
    )  # fmt: skip


def keep_base(model: Path, text: Path, base: Path, task: Task, tools: Path) -> float:
    """Perplexity of the full-precision file; its probabilities are kept in `base`. Raises: ProcessError."""
    done = run_process((*_perplexity(model, text, task, tools), "--save-all-logits", str(base)))
    found = _FINAL.search(done.stdout + done.stderr)
    if found is None:
        raise ProcessError(f"llama-perplexity gave no estimate: {done.stderr.strip()[-400:]}")
    return float(found[1])


def against_base(model: Path, text: Path, base: Path, task: Task, tools: Path) -> dict[str, float]:
    """Perplexity and KL divergence (nats per token) to the kept probabilities. Raises: ProcessError."""
    command = (*_perplexity(model, text, task, tools), "--kl-divergence", "--kl-divergence-base", str(base))
    return read_quality("\n".join((lambda done: (done.stdout, done.stderr))(run_process(command))))


def _perplexity(model: Path, text: Path, task: Task, tools: Path) -> tuple[str, ...]:
    return (
        str(tools / "llama-perplexity"), "-m", str(model), "-f", str(text), "-t", str(task.threads),
        "-c", str(task.options["window"]), "--chunks", str(task.options["chunks"]),
    )  # fmt: skip


def read_quality(output: str) -> dict[str, float]:
    """The figures of llama-perplexity --kl-divergence. Raises: ProcessError when one is missing."""
    found = {name: pattern.search(output) for name, pattern in _QUALITY.items()}
    if missing := [name for name, match in found.items() if match is None]:
        raise ProcessError(f"llama-perplexity did not print {missing[0]}: {output.strip()[-400:]}")
    return {name: float(match[1]) for name, match in found.items() if match is not None}
