"""Our side: the whole engine (scheduler, sampler, text) over whatever runner it chooses, in this process.

In: a `Task`.  Out: rows of start, decode, prefill, offline, prefix, deterministic and limits, explained in
docs/how-to/measure-speed.md. Speculation is off: on random prompts it would look better or worse than it is.
"""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import task as protocol
from task import Answer, Task

from tuition.core.records import StepTrace
from tuition.engine.engine import Engine
from tuition.engine.request import Request, Sampling
from tuition.engine.settings import EngineSettings
from tuition.spec.counts import forward_flops, kv_bytes_read, num_parameters

OFFLINE_REQUESTS = 256
PREFIX_TOKENS, TAIL_TOKENS = 1_000, 16
DECODE_S = 0.2
"""Least time over which decoding is measured."""


class Watched:
    """An engine whose steps and calls of the runner are timed from outside."""

    def __init__(self, task: Task, **changes: Any) -> None:
        settings = EngineSettings(
            precision=task.precision if task.precision != "int4min" else "int4",
            speculation="off",
            threads=task.threads,
            **changes,
        )
        start = time.perf_counter()
        self.engine = Engine(task.model, settings=settings)
        self.load_s = time.perf_counter() - start
        self.task, self.runner_s, self._count = task, 0.0, 0
        runner = self.engine.runner
        for name in ("forward", "decode"):
            if hasattr(runner, name):
                setattr(runner, name, self._timed(getattr(runner, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began = time.perf_counter()
            result = call(*args)
            self.runner_s += time.perf_counter() - began
            return result

        return timed

    def submit(self, prompt: list[int], tokens: int) -> str:
        self._count += 1
        name = f"bench-{self._count}"
        self.engine.loop.submit(
            Request(name, tuple(prompt), tokens, Sampling(temperature=0.0), ignore_eos=True)
        )
        return name

    def steps(self) -> list[tuple[float, float, StepTrace]]:
        """Run until nothing is left: (wall seconds, seconds in the runner, trace) of each step."""
        done = []
        while self.engine.loop.has_work:
            before, start = self.runner_s, time.perf_counter()
            events, trace = self.engine.loop.step()
            wall = time.perf_counter() - start
            if failed := [event.error for event in events if event.finish_reason == "error"]:
                raise RuntimeError(failed[0])
            if trace is not None:
                done.append((wall, self.runner_s - before, trace))
        return done

    def seconds(self, prompts: list[list[int]], tokens: int) -> float:
        start = time.perf_counter()
        for prompt in prompts:
            self.submit(prompt, tokens)
        self.steps()
        return time.perf_counter() - start


def measure(task: Task) -> Answer:
    """All that is asked, with one engine."""
    seed = task.seed * 1_000_003
    side = Watched(task)
    rows: list[dict[str, Any]] = []
    if "start" in task.what:
        rows.append(protocol.start(task, side.seconds, side.load_s))
    if set(task.what) - {"start"}:
        warm_up(side)
    if "decode" in task.what:
        rows += [decode(side, batch, seed) for batch in task.batches]
    if "prefill" in task.what:
        rows += [prefill(side, length, seed) for length in task.prefill]
    if "prefix" in task.what:
        rows += prefix(side, seed)
    if "offline" in task.what:
        rows.append(offline(side, seed))
    if "limits" in task.what:
        rows.append(limits(side))
    facts = describe(side)
    side.engine.close()
    if "deterministic" in task.what:
        rows.append(deterministic(task, seed))
    return Answer(rows, facts)


def warm_up(side: Watched) -> None:
    """As everybody, and in any case a full step, so that no first request pays for pages of its buffers."""
    task, engine = side.task, side.engine
    protocol.warm_up(task, side.seconds)
    full = min(engine.settings.token_budget, engine.context_length - 2)
    side.seconds(protocol.random_prompts(1, full, task.vocab_size, task.seed * 1_000_003 - 3), 1)


def decode(side: Watched, batch: int, seed: int) -> dict[str, Any]:
    """Steps in which every sequence decodes, Python included; and the time until all have a first token.

    A small model writes its reply in a millisecond, so it writes others until `DECODE_S` have passed.
    """
    task = side.task
    full, runner_s, count, contexts, first_token_s = 0.0, 0.0, 0, 0.0, None
    while full < DECODE_S:
        prompts = protocol.random_prompts(batch, task.prompt, task.vocab_size, seed + batch + 1_000 * count)
        start = time.perf_counter()
        for prompt in prompts:
            side.submit(prompt, task.generate)
        took, waiting = time.perf_counter() - start, batch
        for wall, inside, trace in side.steps():
            if waiting > 0:
                took += wall
                waiting -= sum(1 for work in trace.work if work.phase == "prefill" and work.num_sampled)
            if len(trace.work) == batch and all(work.phase == "decode" for work in trace.work):
                full, runner_s, count = full + wall, runner_s + inside, count + trace.num_steps
                each = (trace.num_steps - 1) / 2  # a burst reads more at each of its steps
                contexts += trace.num_steps * sum(work.context_tokens + each for work in trace.work)
        first_token_s = took if first_token_s is None else first_token_s
    row = protocol.decode_row(batch, task, batch * count / full, first_token_s)
    shape = side.engine.folder.shape
    mean_context = round(contexts / max(1, batch * count))
    read = streamed_bytes(side) + batch * kv_bytes_read(shape, 1, mean_context)
    return row | {
        "python_share": 1 - runner_s / full,
        "step_s": full / count,
        "bytes_per_step": read,
        "bytes_per_s": read * count / full,
    }


def prefill(side: Watched, length: int, seed: int) -> dict[str, Any]:
    task = side.task
    prompts = protocol.random_prompts(protocol.PREFILL_REPEATS, length, task.vocab_size, seed + 77 + length)
    took = statistics.median(side.seconds([prompt], 1) for prompt in prompts)
    flops = forward_flops(side.engine.folder.shape, length, 0, num_logits=1)
    return protocol.prefill_row(length, length / took) | {"flops_per_s": flops / took}


def prefix(side: Watched, seed: int) -> list[dict[str, Any]]:
    """Time to first token of two prompts that begin alike; none where the context is too short."""
    task = side.task
    if side.engine.context_length < PREFIX_TOKENS + 2 * TAIL_TOKENS:
        return []
    common, one, other, before = (
        protocol.random_prompts(1, length, task.vocab_size, seed + 500 + index)[0]
        for index, length in enumerate((PREFIX_TOKENS, TAIL_TOKENS, TAIL_TOKENS, PREFIX_TOKENS + TAIL_TOKENS))
    )
    side.seconds([before], 1)
    first, second = side.seconds([common + one], 1), side.seconds([common + other], 1)
    return [{"what": "prefix", "prompt": PREFIX_TOKENS, "first_s": first, "second_s": second,
             "ratio": first / second}]  # fmt: skip


def offline(side: Watched, seed: int) -> dict[str, Any]:
    """Generated tokens per second of mixed lengths, against a static batch of the same mean size.

    `share_of_full`: of a batch with as many requests as a step may hold, all with the mean lengths, though
    the tail of a mixed run cannot fill it. `share`: of one as wide as the mixed run was on average.
    """
    task, settings = side.task, side.engine.settings
    draw = random.Random(seed)
    longest = min(512, side.engine.context_length - 2)
    count = int(task.options.get("offline_requests", OFFLINE_REQUESTS))
    sizes = [(draw.randint(8, longest // 2), draw.randint(8, longest // 2)) for _ in range(count)]
    mean_prompt, mean_reply = (round(statistics.mean(size[at] for size in sizes)) for at in (0, 1))
    mixed = _together(side, sizes, seed + 2)
    mean_size = (mean_prompt, mean_reply)
    static = _together(side, [mean_size] * round(mixed["mean_sequences"]), seed + 1)
    full = _together(side, [mean_size] * min(count, settings.max_batch), seed + 3)
    return {
        "what": "offline",
        "requests": count,
        "max_batch": settings.max_batch,
        "mean_prompt": mean_prompt,
        "mean_reply": mean_reply,
        "mixed": mixed,
        "static": static,
        "full": full,
        "tokens_per_s": mixed["tokens_per_s"],
        "share": mixed["tokens_per_s"] / static["tokens_per_s"],
        "share_of_full": mixed["tokens_per_s"] / full["tokens_per_s"],
        "python_share": mixed["python_share"],
    }


def _together(side: Watched, sizes: list[tuple[int, int]], seed: int) -> dict[str, float]:
    """All submitted at once: generated tokens per second, and where the time went."""
    prompts = [
        protocol.random_prompts(1, prompt, side.task.vocab_size, seed * 1_009 + index)[0]
        for index, (prompt, _) in enumerate(sizes)
    ]
    start = time.perf_counter()
    for prompt, (_, reply) in zip(prompts, sizes, strict=True):
        side.submit(prompt, reply)
    steps = side.steps()
    took = time.perf_counter() - start
    count = sum(trace.num_steps for _, _, trace in steps)
    return {
        "tokens_per_s": sum(reply for _, reply in sizes) / took,
        "steps": count,
        "mean_sequences": sum(trace.num_steps * len(trace.work) for _, _, trace in steps) / count,
        "mean_tokens": sum(w.num_tokens for _, _, trace in steps for w in trace.work) / count,
        "python_share": 1 - sum(inside for _, inside, _ in steps) / took,
    }


def deterministic(task: Task, seed: int) -> dict[str, Any]:
    """What the deterministic mode costs: decode rates with and without it, in turns."""
    batch = max(task.batches)
    rates: dict[bool, list[float]] = {False: [], True: []}
    for wanted in (False, True, True, False):
        side = Watched(replace(task, what=()), deterministic=wanted)
        side.seconds(protocol.random_prompts(1, 16, task.vocab_size, seed - 2), 4)
        rates[wanted].append(decode(side, batch, seed)["tokens_per_s"])
        side.engine.close()
    plain, fixed = statistics.mean(rates[False]), statistics.mean(rates[True])
    return {"what": "deterministic", "batch": batch, "tokens_per_s": fixed, "plain_tokens_per_s": plain,
            "price": plain / fixed - 1}  # fmt: skip


def limits(side: Watched) -> dict[str, Any]:
    """The machine's limits in this sitting: reading as many bytes as the weights have, and products."""
    import tuition_kernels as kernels

    threads = side.task.threads
    rates = {kind: kernels.matrix_rate(kind, threads) for kind in ("float32", "bf16", "int8")}
    return {
        "what": "limits",
        "read_bytes": streamed_bytes(side),
        "read_bytes_per_s": kernels.read_bandwidth(streamed_bytes(side), threads),
        "matrix_ops_per_s": rates,
    }


def packed(side: Watched) -> Any | None:
    """The packed weights, where the runner is the native one."""
    return getattr(side.engine.runner, "_packed", None)


def streamed_bytes(side: Watched) -> int:
    """Bytes of weights that one step reads: all but the rows of an input embedding that is not the head."""
    weights = packed(side)
    if weights is None:
        return sum(tensor.numel() * 4 for _, tensor in side.engine.folder.tensors())
    parts = weights.config.parts()
    return sum(size for name, *_, size in parts if name != "embedding")


def describe(side: Watched) -> dict[str, Any]:
    shape, weights = side.engine.folder.shape, packed(side)
    parameters = num_parameters(shape)
    facts = {"runner": side.engine.runner.name, "parameters": parameters, "load_s": side.load_s}
    if weights is not None:
        facts |= {"weight_bytes": len(weights.buffer), "bits": len(weights.buffer) * 8 / parameters}
    return facts


if __name__ == "__main__":
    protocol.main(measure)
