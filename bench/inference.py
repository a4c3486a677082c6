"""Our engine beside the others on this machine: the same files, the same cores, in turns.

    python bench/inference.py                                        everything that is installed (hours)
    python bench/inference.py --models smollm2 --peers llama.cpp --what decode prefill --rounds 5 --quick
    python bench/inference.py --peers none --what prefix offline deterministic

In: models of bench/peers/files.py, engines that `make bench-peers` put under `.peers/`.
Out: bench/results/inference.json (every round's numbers, settings, versions, machine) and a table.
Rows that are measured again replace those in the file. Each side runs in a process of its own, warms up, and
takes turns with the others (A B A B); how to read the result: docs/how-to/measure-speed.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peers import files, llama, report
from peers.files import BenchModel, NoModelError
from peers.install import PEERS, ROOT
from peers.process import Finished, ProcessError, run_process
from peers.task import Answer, Task, hear

from tuition.core.durable import write_json
from tuition.runtime.device import usable_cores
from tuition.spec.hardware import find_processor

RESULTS = ROOT / "bench" / "results" / "inference.json"
HERE = ROOT / "bench" / "peers"

PRECISIONS = ("bf16", "int8", "int4", "int4min")
WHATS = ("decode", "prefill", "start", "limits", "prefix", "offline", "deterministic", "quality")
ONLY_OURS = ("limits", "prefix", "offline", "deterministic")
BATCHES, PREFILL, PROMPT, GENERATE = (1, 4, 16, 64), (128, 512, 2_048), 128, 128
QUICK = {"batches": (1, 16), "prefill": (512,), "generate": 64}
QUALITY = {"window": 512, "chunks": 40}
QUICK_CHUNKS = 8


@dataclass(frozen=True)
class Side:
    """One engine: what it opens, and the Python or the tools that run it."""

    name: str
    opens: Callable[[BenchModel, str], Path]
    precisions: tuple[str, ...]
    measure: Callable[[Task], Answer]
    start: Callable[[Task], Finished] | None = None


def main() -> int:
    arguments = read_arguments()
    os.sched_setaffinity(0, arguments.cores)
    sides, missing = find_sides(arguments.peers)
    for name, reason in missing.items():
        print(f"{name} is not measured: {reason}", file=sys.stderr)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"the machine is not quiet (load {load:.1f}): read ratios, and not these either", file=sys.stderr
        )
    book = Book(arguments, missing)
    for name in arguments.models:
        try:
            model = files.find(name, arguments.demo_model)
        except NoModelError as reason:
            print(f"{name} is not measured: {reason}", file=sys.stderr)
            book.refused(name, str(reason))
            continue
        measure_model(model, sides, arguments, book)
    print("\n".join(book.lines()))
    print(f"kept in {arguments.out}")
    return 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=files.NAMES, default=files.NAMES)
    parser.add_argument("--peers", nargs="+", choices=(*PEER_SIDES, "none"), default=tuple(PEER_SIDES))
    parser.add_argument("--what", nargs="+", choices=WHATS, default=WHATS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer batch sizes, lengths and tokens")
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
    quick = QUICK if arguments.quick else {}
    arguments.batches = tuple(arguments.batches or quick.get("batches", BATCHES))
    arguments.prefill = tuple(arguments.prefill or quick.get("prefill", PREFILL))
    arguments.generate = arguments.generate or quick.get("generate", GENERATE)
    arguments.chunks = arguments.chunks or (QUICK_CHUNKS if arguments.quick else QUALITY["chunks"])
    return arguments


# ---- sides


def find_sides(wanted: Sequence[str]) -> tuple[list[Side], dict[str, str]]:
    """Ours first, then each peer that is installed; and why the others are not there."""
    sides = [
        Side(report.OURS, BenchModel.gguf, PRECISIONS, worker(sys.executable, "ours.py"),
             starter(sys.executable, "start_ours.py"))
    ]  # fmt: skip
    missing = {}
    for name in PEER_SIDES:
        if name not in wanted:
            continue
        try:
            facts = json.loads((PEERS / name / "peer.json").read_text())
        except OSError:
            missing[name] = f"not installed (python bench/peers/install.py {name})"
            continue
        sides.append(PEER_SIDES[name](facts))
    return sides, missing


def worker(python: str, script: str) -> Callable[[Task], Answer]:
    """A side that runs in `python` and speaks bench/peers/task.py."""

    def measure(task: Task) -> Answer:
        done = run_process((python, str(HERE / script), task.to_json()))
        answer = hear(done.stdout)
        return replace(answer, facts=answer.facts | {"peak_bytes": done.peak_bytes})

    return measure


def starter(python: str, script: str) -> Callable[[Task], Finished]:
    return lambda task: run_process((python, str(HERE / script), task.to_json()))


def _llama(facts: dict[str, str]) -> Side:
    tools = ROOT / facts["tools"]
    return Side("llama.cpp", BenchModel.gguf, PRECISIONS, lambda task: llama.measure(task, tools),
                lambda task: llama.start(task, tools))  # fmt: skip


def _python_peer(name: str, script: str, opens: Callable[[BenchModel, str], Path], precisions: tuple[str, ...]
                 ) -> Callable[[dict[str, str]], Side]:  # fmt: skip
    # an absolute path in peer.json stays as it is; no resolve(): a venv's python is a link
    return lambda facts: Side(name, opens, precisions, worker(str(ROOT / facts["python"]), script))


def _gguf_f16(model: BenchModel, precision: str) -> Path:
    """For OpenVINO, which opens no bf16 in GGUF: the other format of 16 bits."""
    return model.gguf("f16" if precision == "bf16" else precision)


def _folder(model: BenchModel, precision: str) -> Path:
    return model.folder()


PEER_SIDES: dict[str, Callable[[dict[str, str]], Side]] = {
    "llama.cpp": _llama,
    "openvino": _python_peer("openvino", "openvino_worker.py", _gguf_f16, PRECISIONS),
    "vllm": _python_peer("vllm", "vllm_worker.py", _folder, ("bf16",)),
    "transformers": _python_peer("transformers", "transformers_worker.py", _folder, ("bf16",)),
}


# ---- measuring


def measure_model(
    model: BenchModel, sides: Sequence[Side], arguments: argparse.Namespace, book: "Book"
) -> None:
    """All rounds of one model; within a round the sides take turns, in the next one the other way round."""
    speed = tuple(what for what in arguments.what if what != "quality")
    for turn in range(arguments.rounds if speed else 0):
        for precision in arguments.precisions:
            order = sides if turn % 2 == 0 else tuple(reversed(sides))
            for side in order:
                if precision in side.precisions:
                    one_turn(model, precision, side, turn, arguments, book)
        book.keep()
    if "quality" in arguments.what and model.trained:
        measure_quality(model, sides, arguments, book)
        book.keep()


def one_turn(model: BenchModel, precision: str, side: Side, turn: int, arguments: argparse.Namespace,
             book: "Book") -> None:  # fmt: skip
    """One side's process, or two with `start`; what fails is written down and the others go on."""
    try:
        path = side.opens(model, precision)
    except NoModelError as reason:
        book.refused(f"{model.name} {precision}", str(reason))
        return
    task = task_of(model, precision, path, turn, arguments)
    if side.name != report.OURS:
        task = replace(task, what=tuple(what for what in task.what if what not in ONLY_OURS))
    where = {"model": model.name, "precision": precision, "side": side.name, "round": turn}
    try:
        if set(task.what) - {"start"}:
            began = time.perf_counter()
            answer = side.measure(task)
            facts = {**model.sizes(path), **answer.facts}
            book.add(where, answer.rows, facts)
            speeds = ", ".join(short(row) for row in answer.rows if row["what"] in ("decode", "prefill"))
            print(f"round {turn + 1} {model.name} {precision} {side.name}: {speeds} "
                  f"({time.perf_counter() - began:.0f} s)", flush=True)  # fmt: skip
        if "start" in task.what and side.start is not None:
            done = side.start(task)
            book.add(where, [{"what": "start", "seconds": done.wall_s, "peak_bytes": done.peak_bytes}], {})
    except (ProcessError, ValueError, KeyError) as error:
        book.refused(f"{model.name} {precision} {side.name}", str(error))
        print(f"{model.name} {precision} {side.name} failed: {error}", file=sys.stderr)


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
    at = f"batch {row['batch']}" if row["what"] == "decode" else f"prefill {row['prompt']}"
    return f"{at} {row['tokens_per_s']:,.0f}"


def measure_quality(model: BenchModel, sides: Sequence[Side], arguments: argparse.Namespace, book: "Book"
                    ) -> None:  # fmt: skip
    """Perplexity and KL to bf16, ours and llama.cpp's, each rounded by its own rules from equal weights."""
    text = files.heldout_text(files.MODELS / "heldout.txt")
    window = min(QUALITY["window"], model.shape.context_length)
    options = {"window": window, "chunks": arguments.chunks, "text": str(text),
               "precisions": [p for p in arguments.precisions if p != "int4min"]}  # fmt: skip
    task = replace(task_of(model, "bf16", model.gguf("bf16"), 0, arguments), options=options)
    where = {"model": model.name, "round": 0}
    try:
        answer = worker(sys.executable, "quality.py")(task)
        for row in answer.rows:
            book.add({**where, "precision": row["precision"], "side": report.OURS}, [row], {})
        if any(side.name == "llama.cpp" for side in sides):
            tools = json.loads((PEERS / "llama.cpp" / "peer.json").read_text())["tools"]
            llama_quality(model, task, ROOT / tools, text, where, book)
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
            rows[precision] |= model.sizes(quantised)
            quantised.unlink()
        for precision, row in rows.items():
            kept = {
                "what": "quality",
                "window": task.options["window"],
                "chunks": task.options["chunks"],
                **row,
            }
            book.add({**where, "precision": precision, "side": "llama.cpp"}, [kept], {})


# ---- the book of results


class Book:
    """Rows of this run, and of earlier ones that it does not replace."""

    def __init__(self, arguments: argparse.Namespace, missing: dict[str, str]) -> None:
        self.path: Path = arguments.out
        try:
            self.old: dict[str, Any] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.old = {}
        self.rows: list[dict[str, Any]] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, str] = dict(missing)
        self.sitting = sitting(arguments)

    def add(self, where: dict[str, Any], rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
        self.rows += [{**where, **row, "sitting": self.sitting["started"]} for row in rows]
        if facts:
            self.facts[f"{where['model']} {where['precision']} {where['side']}"] = facts

    def refused(self, what: str, reason: str) -> None:
        self.failures[what] = reason

    def keep(self) -> None:
        """Write all that is known so far."""
        mine = {(report.key_of(row), row["side"]) for row in self.rows}
        rows = [r for r in self.old.get("rows", []) if (report.key_of(r), r["side"]) not in mine] + self.rows
        sittings = {s["started"]: s for s in self.old.get("sittings", [])} | {
            self.sitting["started"]: self.sitting
        }
        used = {row["sitting"] for row in rows}
        summaries = report.summarise(rows)
        compared = report.ratios(summaries)
        write_json(
            self.path,
            {
                "summary": [s.named() | ratio_field(compared.get((s.key, s.side))) for s in summaries],
                "shares_of_limits": report.shares(rows),
                "facts": self.old.get("facts", {}) | self.facts,
                "not_measured": self.failures,
                "sittings": [each for started, each in sorted(sittings.items()) if started in used],
                "rows": rows,
            },
        )

    def lines(self) -> list[str]:
        """The table of this run."""
        bits = {}
        for name, facts in self.facts.items():
            model, precision, side = name.split(" ", 2)
            bits[model, precision, side] = facts["bits"]
        lines = report.table(report.summarise(self.rows), bits)
        lines += [
            f"{share['model']} {share['precision']} {share['what']} {share.get('prompt', '')}: "
            f"{share['share']:.0%} of the measured {share['of']}"
            for share in report.shares(self.rows)
        ]
        lines += [
            f"{row['model']} {row['precision']} {row['side']}: perplexity {row['perplexity']:.4f} "
            f"({row['log_ratio']:+.3%} to its bf16), KL {row['kl']:.6f}"
            for row in self.rows
            if row["what"] == "quality"
        ]
        return lines


def ratio_field(ratio: float | None) -> dict[str, float]:
    return {} if ratio is None else {"ours_is": ratio}


def sitting(arguments: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions and settings of this run."""
    processor = find_processor()
    commit = subprocess.run(("git", "rev-parse", "--short", "HEAD"), cwd=ROOT, capture_output=True, text=True,
                            check=False).stdout.strip()  # fmt: skip
    versions = {}
    for path in sorted(PEERS.glob("*/peer.json")):
        facts = json.loads(path.read_text())
        versions[path.parent.name] = {k: facts[k] for k in ("version", "compiler", "options") if k in facts}
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor.name, "instructions": processor.isa, "cores": sorted(arguments.cores),
            "threads": len(arguments.cores), "usable_cores": usable_cores(),
            "memory_bytes": processor.memory_bytes, "virtual": processor.virtual,
            "kernel": platform.release(), "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), "commit": commit, **versions},
        "settings": {
            "rounds": arguments.rounds, "batches": arguments.batches, "prompt": arguments.prompt,
            "generate": arguments.generate, "prefill": arguments.prefill, "chunks": arguments.chunks,
        },
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
