"""Write the parts of the documentation that come from the program: API fields, the demo's own output.

Each stands between `<!-- name:begin -->` and `<!-- name:end -->`. `--check` writes nothing and fails if one
is stale (the demo's output is left out of that: it differs from run to run).
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from tuition.core.workspace import open_workspace
from tuition.serve.protocol import REFUSED, ChatRequest, Common, CompletionRequest

ROOT = Path(__file__).resolve().parent.parent
API = ROOT / "docs" / "how-to" / "call-the-server.md"
README = ROOT / "README.md"
SPEED = ROOT / "docs" / "how-to" / "measure-speed.md"
INFERENCE = [ROOT / "bench" / "results" / name for name in ("inference.json", "inference_peers.json")]
"""Sittings: each has our rows beside those of the peers in it."""
TRAIN_STEP = ROOT / "bench" / "results" / "train_step.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path, name, text in parts(check):
        old = path.read_text(encoding="utf-8")
        new = replaced(old, name, text)
        if new != old:
            stale.append(f"{path.relative_to(ROOT)}: {name}")
            if not check:
                path.write_text(new, encoding="utf-8")
    print(
        "\n".join(f"{'stale' if check else 'written'}: {line}" for line in stale) or "all parts are current"
    )
    return 1 if check and stale else 0


def parts(check: bool) -> list[tuple[Path, str, str]]:
    """File, name of the part, and what stands in it."""
    found = [
        (API, "chat-fields", fields_table(ChatRequest, Common)),
        (API, "completion-fields", fields_table(CompletionRequest, Common)),
        (API, "refused-fields", refused_names(ChatRequest)),
        (API, "completion-refused-fields", refused_names(CompletionRequest)),
    ]
    if TRAIN_STEP.exists():
        found.append((README, "bench", train_step_table(json.loads(TRAIN_STEP.read_text(encoding="utf-8")))))
    inference = [json.loads(path.read_text(encoding="utf-8")) for path in INFERENCE if path.exists()]
    if inference:
        found.append((SPEED, "targets", targets_table(inference)))
        found.append((README, "inference", "\n\n".join(inference_table(each) for each in inference)))
    home = open_workspace(None if os.environ.get("TUITION_HOME") else ROOT / ".demo").root
    if not check and (home / "demo.txt").exists():
        told = (home / "demo.txt").read_text(encoding="utf-8").strip().replace(str(home), "./.demo")
        found.append((README, "demo", f"```text\n{told.replace(str(ROOT), '.')}\n```"))
    return found


def targets_table(results: list[dict[str, Any]]) -> str:
    """What bench/inference.py was to show and did, as a Markdown table, and the machine it ran on.

    A target that one sitting did not measure is taken from the next that did.
    """
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        for target in result["targets"]:
            if found.setdefault(target["row"], target)["outcome"] == "not measured":
                found[target["row"]] = target
    rows = ["| target | wanted | measured | |", "|---|---|---|---|"]
    for target in found.values():
        rows.append(f"| {target['row']} | {target['wanted']} | {target['told']} | {target['outcome']} |")
    return "\n".join([*rows, "", f"Measured {results[0]['measured_on']}."])


def _sizes(rows: Iterable[tuple[str, int, str]], of: str) -> list[str]:
    return [str(size) for size in sorted({size for what, size, _ in rows if what == of})]


def inference_table(result: dict[str, Any]) -> str:
    """Our tokens per second, and how many times those of each peer they are, as a Markdown table."""
    speeds = [
        row
        for row in result["summary"]
        if row["model"] == "smollm2"
        and row["what"] in ("decode", "prefill")
        and row["figure"] == "tokens_per_s"
    ]
    found: dict[tuple[str, int, str], dict[str, dict[str, Any]]] = {}
    for row in speeds:
        what, size = ("batch", "batch") if row["what"] == "decode" else ("prompt of", "prompt")
        found.setdefault((what, row[size], row["precision"]), {})[row["side"]] = row
    peers = list(dict.fromkeys(row["side"] for row in speeds if row["side"] != "tuition"))
    lines = [
        f"| SmolLM2-135M-Instruct | tokens/s | {' | '.join(f'times {peer}' for peer in peers)} |",
        "|---|---|" + "---|" * len(peers),
    ]
    for (what, size, precision), sides in sorted(found.items()):
        if "tuition" not in sides:
            continue
        ratios = (f"{sides[peer]['ours_is']:.2f}" if peer in sides else "-" for peer in peers)
        lines.append(
            f"| {what} {size:,}, {precision} | {sides['tuition']['median']:,.0f} | {' | '.join(ratios)} |"
        )
    rounds = max((row["rounds"] for row in speeds), default=0)
    where = f"Medians of {rounds} rounds in turns, {result['measured_on']}."
    sizes = " ".join(["--batches", *_sizes(found, "batch"), "--prefill", *_sizes(found, "prompt of")])
    again = (
        f"--models smollm2 --peers {' '.join(peers)} --what decode prefill limits {sizes} --rounds {rounds}"
    )
    return "\n".join([*lines, "", f"{where} Again: `make bench-peers`, `python bench/inference.py {again}`."])


def train_step_table(result: dict[str, Any]) -> str:
    """What bench/train_step.py measured, as a Markdown table with its conditions."""
    shape = result["shape"]
    rows = [
        "| one training step, demo's model and batch | tokens/s | ratio, median of rounds |",
        "|---|---|---|",
    ]
    for name, row in result["rows"].items():
        rows.append(f"| {name} | {row['tokens_per_s']:,} | {row['times_the_first']:.2f} |")
    where = (
        f"{result['processor']}, {result['threads']} threads, torch {result['torch']}, "
        f"transformers {result['transformers']}, {result['date']}; "
        f"{shape['num_layers']} layers of {shape['hidden_size']}, "
        f"vocabulary {result['vocab_size']:,}, {result['batch_size']} rows of {result['seq_len']}; "
        f"{result['rounds']} rounds, interleaved"
    )
    return "\n".join(
        [*rows, "", f"{where}. Again: `OMP_WAIT_POLICY=PASSIVE python bench/train_step.py --steps 2`."]
    )


def fields_table(kind: Any, base: Any) -> str:
    """The fields of a request body as a Markdown table, its own first."""
    names = [name for name in kind.model_fields if name not in base.model_fields] + list(base.model_fields)
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for name in names:
        field = kind.model_fields[name]
        rows.append(
            f"| `{name}` | {worded(field.annotation)} | {' '.join((field.description or '').split())} |"
        )
    return "\n".join(rows)


def refused_names(kind: Any) -> str:
    """The fields that an endpoint refuses, by name."""
    return ", ".join(f"`{name}`" for name in sorted(REFUSED[kind]))


def worded(kind: Any) -> str:
    """A type as people say it."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(worded(arg) for arg in args if arg is not type(None)))
    if origin is Literal:
        return " or ".join(f"`{arg}`" for arg in args)
    if origin in (list, tuple):
        return "list"
    if origin is dict:
        return "object"
    if hasattr(kind, "__metadata__"):
        return worded(args[0])
    words = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return words.get(kind, "object")


def replaced(text: str, name: str, part: str) -> str:
    """`text` with the part between its marks exchanged. Raises: ValueError without the marks."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no marks for {name}")
    return pattern.sub(lambda marks: f"{marks[1]}{part}\n{marks[2]}", text)


if __name__ == "__main__":
    sys.exit(main())
