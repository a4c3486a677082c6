"""Our engine beside the others on this machine: the same files, the same cores, in turns.

    python bench/inference.py                                 everything that is installed (hours)
    python bench/inference.py --models smollm2 --peers llama.cpp --what decode prefill --rounds 5 --quick
    python bench/inference.py --targets                       what the table of targets needs (half an hour)
    python bench/inference.py --peers none --what prefix offline deterministic

In: models of bench/peers/files.py, engines that `make bench-peers` put under `.peers/`.
Out: bench/results/inference.json (every round's numbers, settings, versions, machine) and a table.
Rows that are measured again replace those in the file. Each side runs in a process of its own, warms up, and
takes turns with the others (A B A B); how to read the result: docs/how-to/measure-speed.md.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peers import files, llama, report, targets
from peers.book import Book
from peers.files import BenchModel, NoModelError
from peers.install import PEERS, ROOT
from peers.process import ProcessError
from peers.sides import ONLY_OURS, PEER_SIDES, PRECISIONS, Side, find_sides, llama_builds, worker
from peers.task import Task

RESULTS = ROOT / "bench" / "results" / "inference.json"

WHATS = ("decode", "prefill", "start", "limits", "prefix", "offline", "deterministic", "quality")
BATCHES, PREFILL, PROMPT, GENERATE = (1, 4, 16, 64), (128, 512, 2_048), 128, 128
QUICK = {"batches": (1, 16), "prefill": (512,), "generate": 64}
QUALITY = {"window": 512, "chunks": 40}
QUICK_CHUNKS = 8

TARGET_SET: tuple[dict[str, Any], ...] = (
    {"models": ("smollm2",), "what": ("decode", "prefill", "limits"), "precisions": ("bf16", "int8", "int4")},
    {"models": ("demo",), "what": ("decode",), "batches": (1,), "generate": targets.REPLY, "peers": ("none",),
     "precisions": ("bf16", "int8", "int4")},
    {"models": ("smollm2",), "what": ("prefix",), "precisions": ("int8",), "peers": ("none",)},
    {"models": ("smollm2",), "what": ("offline",), "precisions": ("int8",), "peers": ("none",), "rounds": 1},
    {"models": ("smollm2",), "what": ("start",), "precisions": ("bf16", "int8", "int4"), "rounds": 3},
    {"models": ("stories15m", "demo"), "what": ("quality",), "precisions": ("bf16", "int8", "int4"),
     "peers": ("llama.cpp",), "chunks": 40},
)  # fmt: skip
"""The parts of --targets: what the table of bench/peers/targets.py needs, in sizes for half an hour.
`offline` compares within one process and takes minutes, hence one round."""


def main() -> int:
    arguments = read_arguments()
    os.sched_setaffinity(0, arguments.cores)
    _, missing = find_sides(arguments.peers)
    for name, reason in missing.items():
        print(f"{name} is not measured: {reason}", file=sys.stderr)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"the machine is not quiet (load {load:.1f}): read ratios, and not these either", file=sys.stderr
        )
    book = Book(arguments, missing)
    began = time.perf_counter()
    for part in parts(arguments):
        sides, _ = find_sides(part.peers)
        for name in part.models:
            try:
                model = files.find(name, part.demo_model)
            except NoModelError as reason:
                print(f"{name} is not measured: {reason}", file=sys.stderr)
                book.refused(name, str(reason))
                continue
            measure_model(model, sides, part, book)
    print("\n".join(book.lines()))
    print(f"kept in {arguments.out}; {(time.perf_counter() - began) / 60:.0f} minutes")
    return 0


def parts(arguments: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """The runs that were asked for, one after the other: one, or those of --targets.

    --models, --peers and --rounds narrow the set; what it says about sizes holds.
    """
    for part in TARGET_SET if arguments.targets else ({},):
        asked = argparse.Namespace(**vars(arguments) | part)
        asked.models = tuple(name for name in asked.models if name in arguments.models)
        asked.peers = tuple(name for name in asked.peers if name in arguments.peers)
        asked.rounds = min(asked.rounds, arguments.rounds)
        yield asked


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=files.NAMES, default=files.NAMES)
    parser.add_argument("--peers", nargs="+", choices=(*PEER_SIDES, "none"), default=tuple(PEER_SIDES))
    parser.add_argument("--what", nargs="+", choices=WHATS, default=WHATS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer batch sizes, lengths and tokens")
    parser.add_argument("--targets", action="store_true", help="what the table of targets needs, as --quick")
    parser.add_argument("--batches", nargs="+", type=int, help=f"default {BATCHES}")
    parser.add_argument("--prefill", nargs="+", type=int, help=f"prompt lengths, default {PREFILL}")
    parser.add_argument("--prompt", type=int, default=PROMPT, help="tokens before decoding")
    parser.add_argument("--generate", type=int, help=f"tokens decoded, default {GENERATE}")
    parser.add_argument("--chunks", type=int, help="windows of text for quality")
    parser.add_argument("--cores", type=lambda text: {int(core) for core in text.split(",")},
                        default=os.sched_getaffinity(0), help="like 0,1; default all")  # fmt: skip
    parser.add_argument("--demo-model", help="a registered name or a folder; default the last make demo's")
    parser.add_argument("--eager", action="store_true", help="vLLM without its compiler")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    quick = QUICK if arguments.quick or arguments.targets else {}
    arguments.batches = tuple(arguments.batches or quick.get("batches", BATCHES))
    arguments.prefill = tuple(arguments.prefill or quick.get("prefill", PREFILL))
    arguments.generate = arguments.generate or quick.get("generate", GENERATE)
    arguments.chunks = arguments.chunks or (QUICK_CHUNKS if quick else QUALITY["chunks"])
    return arguments


# ---- measuring


def measure_model(
    model: BenchModel, sides: Sequence[Side], arguments: argparse.Namespace, book: "Book"
) -> None:
    """All rounds of one model; within a round the sides take turns, in the next one the other way round."""
    speed = model.speed and any(what != "quality" for what in arguments.what)
    for turn in range(arguments.rounds if speed else 0):
        for precision in arguments.precisions:
            order = sides if turn % 2 == 0 else tuple(reversed(sides))
            for side in order:
                if precision in side.precisions:
                    one_turn(model, precision, side, turn, arguments, book)
        book.keep()
    if "quality" in arguments.what and model.text is not None:
        measure_quality(model, sides, arguments, book)
        book.keep()


def one_turn(model: BenchModel, precision: str, side: Side, turn: int, arguments: argparse.Namespace,
             book: "Book") -> None:  # fmt: skip
    """One side's turn; what fails is written down and the others go on."""
    try:
        path = side.opens(model, precision)
    except NoModelError as reason:
        book.refused(f"{model.name} {precision}", str(reason))
        return
    task = task_of(model, precision, path, turn, arguments)
    if side.name != report.OURS:
        task = replace(task, what=tuple(what for what in task.what if what not in ONLY_OURS))
    where = {"model": model.name, "precision": precision, "side": side.name, "round": turn}
    if not task.what:
        return
    began = time.perf_counter()
    try:
        answer = side.measure(task)
    except (ProcessError, ValueError, KeyError) as error:
        book.refused(f"{model.name} {precision} {side.name}", str(error))
        print(f"{model.name} {precision} {side.name} failed: {error}", file=sys.stderr)
        return
    book.add(where, answer.rows, {**model.sizes(path), **answer.facts})
    told = ", ".join(filter(None, map(short, answer.rows)))
    print(f"round {turn + 1} {model.name} {precision} {side.name}: {told} "
          f"({time.perf_counter() - began:.0f} s)", flush=True)  # fmt: skip


def task_of(model: BenchModel, precision: str, path: Path, turn: int, arguments: argparse.Namespace) -> Task:
    """What a side is asked; lengths that the model's context does not hold are left out."""
    room = model.shape.context_length
    generate = min(arguments.generate, room - arguments.prompt)
    return Task(
        model=str(path), precision=precision, what=tuple(w for w in arguments.what if w != "quality"),
        threads=len(arguments.cores), vocab_size=model.shape.vocab_size, batches=arguments.batches,
        prompt=arguments.prompt, generate=generate,
        prefill=tuple(length for length in arguments.prefill if length < room), seed=turn,
        options={"eager": arguments.eager},
    )  # fmt: skip


def short(row: dict[str, Any]) -> str:
    """A row's first figure, in a few words."""
    figures = report.FIGURES.get(row["what"], ())
    if not figures or row.get(figures[0].column) is None:
        return ""
    at = {"decode": f"batch {row.get('batch')} ", "prefill": f"{row.get('prompt')} "}.get(row["what"], "")
    return f"{row['what']} {at}{report.number(row[figures[0].column])}"


def measure_quality(model: BenchModel, sides: Sequence[Side], arguments: argparse.Namespace, book: "Book"
                    ) -> None:  # fmt: skip
    """Perplexity and KL to bf16, ours and llama.cpp's, each rounded by its own rules from equal weights."""
    if model.text is None:
        return
    text = model.text()
    window = min(QUALITY["window"], model.shape.context_length)
    options = {"window": window, "chunks": arguments.chunks, "text": str(text),
               "precisions": [p for p in arguments.precisions if p != "int4min"]}  # fmt: skip
    task = task_of(model, "bf16", model.gguf("bf16"), 0, arguments)
    task = replace(task, what=("quality",), options=options)
    where = {"model": model.name, "round": 0}
    try:
        answer = worker(sys.executable, "quality.py")(task)
        for row in answer.rows:
            book.add({**where, "precision": row["precision"], "side": report.OURS}, [row], {})
        if any(side.name == "llama.cpp" for side in sides):
            llama_quality(model, task, llama_builds().tools(task), text, where, book)
    except (ProcessError, ValueError, OSError) as error:
        book.refused(f"{model.name} quality", str(error))
        print(f"{model.name} quality failed: {error}", file=sys.stderr)


def llama_quality(model: BenchModel, task: Task, tools: Path, text: Path, where: dict[str, Any], book: "Book"
                  ) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory(dir=PEERS) as scratch:
        base = Path(scratch) / "base.logits"
        perplexity = llama.keep_base(model.gguf("bf16"), text, base, task, tools)
        rows = {"bf16": {"perplexity": perplexity, "log_ratio": 0.0, "kl": 0.0}}
        for precision in task.options["precisions"]:
            if precision in ("bf16", "float32"):
                continue
            quantised = Path(scratch) / f"{precision}.gguf"
            llama.quantise(model.gguf("bf16"), quantised, files.GGUF_TYPES[precision], tools)
            rows[precision] = llama.against_base(quantised, text, base, task, tools)
            rows[precision]["log_ratio"] = math.log(rows[precision]["perplexity"] / perplexity)
            rows[precision] |= model.sizes(quantised)
            quantised.unlink()
        sizes = {name: task.options[name] for name in ("window", "chunks")}
        for precision, row in rows.items():
            kept = {"what": "quality", **sizes, **row}
            book.add({**where, "precision": precision, "side": "llama.cpp"}, [kept], {})


if __name__ == "__main__":
    raise SystemExit(main())
