"""What one process is asked to measure and what it answers.

Only the standard library is used: every peer's Python runs this file.

In: a task as JSON on the command line.  Out: an answer as JSON, the last line of standard output.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

Generate = Callable[[list[list[int]], int], None]
"""(prompts, tokens to generate for each) -> nothing, when all are done."""

PREFILL_REPEATS = 3
"""Prompts are short work; the median of so many is one measurement."""
MARK = "ANSWER "


@dataclass(frozen=True)
class Task:
    """One process's work on one model in one precision."""

    model: str
    """What the engine opens: a GGUF file or a Hugging Face folder."""
    precision: str
    what: tuple[str, ...]
    threads: int
    vocab_size: int
    batches: tuple[int, ...] = (1,)
    prompt: int = 128
    """Tokens before decoding begins."""
    generate: int = 128
    prefill: tuple[int, ...] = (512,)
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    """For one side alone."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Answer:
    """Measured rows, and facts that hold for all of them."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]


def read_task(arguments: list[str]) -> Task:
    """The task of this process."""
    fields = json.loads(arguments[1])
    for name in ("what", "batches", "prefill"):
        fields[name] = tuple(fields[name])
    return Task(**fields)


def tell(answer: Answer) -> None:
    """Print the answer for the process that asked."""
    print(MARK + json.dumps(asdict(answer)), flush=True)


def hear(output: str) -> Answer:
    """The answer in a process's output. Raises: ValueError when there is none."""
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            return Answer(**json.loads(line.removeprefix(MARK)))
    raise ValueError("the process ended without an answer")


def random_prompts(count: int, length: int, vocab_size: int, seed: int) -> list[list[int]]:
    """Token ids without common prefixes, so that no cache helps anybody.

    The first ids are left out: special tokens often stand there.
    """
    draw = random.Random(seed)
    low = min(300, vocab_size // 4)
    return [[draw.randrange(low, min(vocab_size, 40_000)) for _ in range(length)] for _ in range(count)]


def measure_generate(task: Task, generate: Generate, load_s: float) -> list[dict[str, Any]]:
    """Rows of an engine that is known by `generate` alone: decoding is the time beyond the first token."""
    seed = task.seed * 1_000_003
    rows: list[dict[str, Any]] = []
    if "start" in task.what:
        rows.append(start(task, generate, load_s))
    if set(task.what) & {"decode", "prefill"}:
        warm_up(task, generate)
    if "decode" in task.what:
        for batch in task.batches:
            first, all_of_it = (
                _seconds(
                    generate, random_prompts(batch, task.prompt, task.vocab_size, seed + batch + at), tokens
                )
                for at, tokens in ((0, 1), (10_000, task.generate))
            )
            if all_of_it <= first:
                continue  # too short to be told apart
            rows.append(decode_row(batch, task, batch * (task.generate - 1) / (all_of_it - first), first))
    if "prefill" in task.what:
        for length in task.prefill:
            prompts = random_prompts(PREFILL_REPEATS, length, task.vocab_size, seed + 77 + length)
            took = statistics.median(_seconds(generate, [prompt], 1) for prompt in prompts)
            rows.append(prefill_row(length, length / took))
    return rows


def start(task: Task, generate: Generate, load_s: float) -> dict[str, Any]:
    """The first thing a process does: a token for a short prompt; then the work whose memory is compared.

    `options.launched` is when the process was started, seconds since the epoch; `load_s` how long the engine
    took to open the model, within that.
    """
    generate(random_prompts(1, 2, task.vocab_size, task.seed), 1)
    row = {"what": "start", "seconds": time.time() - task.options["launched"], "load_s": load_s}
    generate(random_prompts(1, task.prompt, task.vocab_size, task.seed + 1), task.generate)
    return row


def warm_up(task: Task, generate: Generate) -> None:
    """As many tokens at once as any measurement will have: pages, caches and compiled code are there then."""
    longest = max(task.prompt, *(task.prefill or (0,)))
    generate(random_prompts(1, longest, task.vocab_size, task.seed * 1_000_003 - 1), 8)


def decode_row(batch: int, task: Task, rate: float, first_token_s: float | None) -> dict[str, Any]:
    """Tokens per second of all sequences together, and the time until all have their first token."""
    return {"what": "decode", "batch": batch, "prompt": task.prompt, "generate": task.generate,
            "tokens_per_s": rate, "first_token_s": first_token_s}  # fmt: skip


def memory_row(task: Task, peak_bytes: int) -> dict[str, Any]:
    """Highest memory of a process that opens the model and answers one prompt, and does nothing else."""
    return {"what": "memory", "batch": 1, "prompt": task.prompt, "generate": task.generate,
            "peak_bytes": peak_bytes}  # fmt: skip


def prefill_row(length: int, rate: float) -> dict[str, Any]:
    return {"what": "prefill", "prompt": length, "tokens_per_s": rate, "first_token_s": length / rate}


def _seconds(generate: Generate, prompts: list[list[int]], tokens: int) -> float:
    start = time.perf_counter()
    generate(prompts, tokens)
    return time.perf_counter() - start


def main(measure: Callable[[Task], Answer]) -> None:
    """The whole of a worker."""
    tell(measure(read_task(sys.argv)))
