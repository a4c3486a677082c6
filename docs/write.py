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
DEMO = ROOT / "docs" / "demo.md"
SPEED = ROOT / "docs" / "how-to" / "measure-speed.md"
INFERENCE = [ROOT / "bench" / "results" / name for name in ("inference.json", "inference_peers.json")]
"""Measuring sessions: each holds our rows and those of its peers."""
README_ROWS = (("batch", 1), ("batch", 16), ("prompt of", 512))
"""Rows of the table in README; the other rows are in docs/how-to/measure-speed.md."""
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
        found.append((SPEED, "inference", "\n\n".join(inference_table(each) for each in inference)))
        found.append((README, "inference", inference_summary(inference)))
    home = open_workspace(None if os.environ.get("TUITION_HOME") else ROOT / ".demo").root
    if not check and (home / "demo.txt").exists():
        told = (home / "demo.txt").read_text(encoding="utf-8").strip().replace(str(home), "./.demo")
        found.append((DEMO, "demo", f"```text\n{told.replace(str(ROOT), '.')}\n```"))
    return found


def targets_table(results: list[dict[str, Any]]) -> str:
    """Targets and results of bench/inference.py as a Markdown table, and the machine it ran on.

    A target that one session did not measure is taken from the next session that did.
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


Speeds = dict[tuple[str, int, str], dict[str, dict[str, Any]]]
"""(what, size, precision) to the row of each side."""


def speeds_of(result: dict[str, Any]) -> Speeds:
    """Tokens per second of SmolLM2-135M-Instruct, decode and prefill."""
    found: Speeds = {}
    for row in result["summary"]:
        if (row["model"], row["figure"]) == ("smollm2", "tokens_per_s") and row["what"] in (
            "decode",
            "prefill",
        ):
            what, size = ("batch", "batch") if row["what"] == "decode" else ("prompt of", "prompt")
            found.setdefault((what, row[size], row["precision"]), {})[row["side"]] = row
    return found


def peers_of(found: Speeds) -> list[str]:
    return list(dict.fromkeys(side for sides in found.values() for side in sides if side != "tuition"))


def inference_summary(results: list[dict[str, Any]]) -> str:
    """The README's table: our speed divided by each peer's, for a few sizes in three formats."""
    ratios: dict[tuple[str, int, str], dict[str, str]] = {}
    for result in results:
        for key, sides in speeds_of(result).items():
            for peer in sides.keys() - {"tuition"}:
                ratios.setdefault(key, {}).setdefault(peer, f"{sides[peer]['ours_is']:.2f}")
    peers = [peer for result in results for peer in peers_of(speeds_of(result))]
    head = " | ".join(f"times {peer}" for peer in peers)
    lines = [f"| SmolLM2-135M-Instruct | format | {head} |", "|---|---|" + "---|" * len(peers)]
    for what, size in README_ROWS:
        for precision in ("bf16", "int8", "int4"):
            row = ratios.get((what, size, precision), {})
            lines.append(
                f"| {what} {size:,} | {precision} | {' | '.join(row.get(peer, '-') for peer in peers)} |"
            )
    where = f"Medians of interleaved rounds, {results[0]['measured_on']}."
    return "\n".join([*lines, "", where])


def inference_table(result: dict[str, Any]) -> str:
    """Our tokens per second, and how many times those of each peer they are, as a Markdown table."""
    found = speeds_of(result)
    peers = peers_of(found)
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
    rounds = max((row["rounds"] for sides in found.values() for row in sides.values()), default=0)
    where = f"Medians of {rounds} interleaved rounds, {result['measured_on']}."
    sizes = " ".join(["--batches", *_sizes(found, "batch"), "--prefill", *_sizes(found, "prompt of")])
    again = (
        f"--models smollm2 --peers {' '.join(peers)} --what decode prefill limits {sizes} --rounds {rounds}"
    )
    return "\n".join([*lines, "", f"{where} Again: `make bench-peers`, `python bench/inference.py {again}`."])


def train_step_table(result: dict[str, Any]) -> str:
    """The results of bench/train_step.py as a Markdown table with its conditions."""
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
        f"{result['rounds']} interleaved rounds"
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
