"""The engines that are measured: what each opens, and the process that measures it.

In: the `peer.json` files of `make bench-peers`.  Out: `Side`s, ours first, and why others are missing.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peers import llama, report, vllm_files
from peers.files import BenchModel
from peers.install import PEERS, ROOT
from peers.process import run_process
from peers.task import Answer, Task, hear, memory_row

HERE = ROOT / "bench" / "peers"
PRECISIONS = ("bf16", "int8", "int4", "int4min")
ONLY_OURS = ("limits", "prefix", "offline", "deterministic")


@dataclass(frozen=True)
class Side:
    """One engine: what it opens, and how it is measured."""

    name: str
    opens: Callable[[BenchModel, str], Path]
    """Raises: NoModelError, with the reason why this engine opens nothing in that precision."""
    precisions: tuple[str, ...]
    measure: Callable[[Task], Answer]


def find_sides(wanted: Sequence[str]) -> tuple[list[Side], dict[str, str]]:
    """Ours first, then each peer that is installed; and why the others are not there."""
    sides = [Side(report.OURS, BenchModel.gguf, PRECISIONS, worker(sys.executable, "ours.py"))]
    missing = {}
    for name in PEER_SIDES:
        if name not in wanted:
            continue
        try:
            facts = json.loads((PEERS / name / "peer.json").read_text())
            sides.append(PEER_SIDES[name](facts))
        except (OSError, KeyError):
            missing[name] = f"not installed (python bench/peers/install.py {name})"
    return sides, missing


def worker(python: str, script: str) -> Callable[[Task], Answer]:
    """A side that runs in `python` and speaks bench/peers/task.py.

    `start` has a process of its own, whose peak memory is that of opening the model and answering one prompt.
    """

    def answer(task: Task) -> tuple[Answer, int]:
        launched = replace(task, options=task.options | {"launched": time.time()})
        done = run_process((python, str(HERE / script), launched.to_json()))
        return hear(done.stdout), done.peak_bytes

    def measure(task: Task) -> Answer:
        rows: list[dict[str, Any]] = []
        facts: dict[str, Any] = {}
        if rest := tuple(what for what in task.what if what != "start"):
            first, _ = answer(replace(task, what=rest))  # also fills the caches that a start may use
            rows, facts = first.rows, first.facts
        if "start" in task.what:
            later, peak_bytes = answer(replace(task, what=("start",)))
            rows, facts = [*rows, *later.rows, memory_row(task, peak_bytes)], facts or later.facts
        return Answer(rows, facts)

    return measure


def llama_builds() -> llama.Builds:
    """The builds of llama.cpp. Raises: OSError when there are none."""
    return llama.Builds(json.loads((PEERS / "llama.cpp" / "peer.json").read_text())["builds"], ROOT)


def _llama(facts: dict[str, Any]) -> Side:
    builds = llama.Builds(facts["builds"], ROOT)
    return Side("llama.cpp", BenchModel.gguf, PRECISIONS, lambda task: llama.measure(task, builds))


def _python_peer(
    name: str, script: str, opens: Callable[[BenchModel, str], Path], precisions: tuple[str, ...]
) -> Callable[[dict[str, Any]], Side]:
    # an absolute path in peer.json stays as it is; no resolve(): a venv's python is a link
    return lambda facts: Side(name, opens, precisions, worker(str(ROOT / facts["python"]), script))


def _gguf_f16(model: BenchModel, precision: str) -> Path:
    """For OpenVINO, which opens no bf16 in GGUF: the other format of 16 bits."""
    return model.gguf("f16" if precision == "bf16" else precision)


def _folder(model: BenchModel, precision: str) -> Path:
    return model.folder()


PEER_SIDES: dict[str, Callable[[dict[str, Any]], Side]] = {
    "llama.cpp": _llama,
    "openvino": _python_peer("openvino", "openvino_worker.py", _gguf_f16, PRECISIONS),
    "vllm": _python_peer("vllm", "vllm_worker.py", vllm_files.folder, ("bf16", "int8", "int4")),
    "transformers": _python_peer("transformers", "transformers_worker.py", _folder, ("bf16",)),
}
