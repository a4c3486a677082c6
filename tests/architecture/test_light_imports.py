"""What must start quickly loads no torch: the light packages, every settings file, every verb's help."""

import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tuition.cli import main

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tuition"
LIGHT_PACKAGES = ("core", "spec", "books", "ledger", "tokenizer", "plan", "registry", "client")
LIGHT_FILES = (
    "desk/engine.py", "desk/desk.py",
    "engine/engine.py", "engine/offline.py", "engine/service.py", "engine/step.py",
    "engine/runner_choice.py", "model/folder.py", "model/formats.py", "model/rope.py", "runtime/cores.py",
)  # fmt: skip
"""The way of a token from kept weights, and what it stands on."""
if importlib.util.find_spec("tuition_kernels") is not None:
    LIGHT_FILES += ("engine/native_runner.py", "engine/native_weights.py")
HEAVY = {"torch", "transformers", "nicegui", "pyarrow"}
HELP_LIMIT_S = 0.5
"""Processor time on a quiet machine; a busy one gets as many times more as `REFERENCE` takes longer there."""
REFERENCE = "import asyncio, ssl, unittest.mock, inspect, email.message"
REFERENCE_S = 0.12
"""Processor time of an interpreter that runs REFERENCE, on the quiet machine where the limit was set."""

TRIES = 10
"""A noisy neighbour of a virtual machine slows seconds on end; a slow help is slow in every try."""
BUSY = 2.0
"""Where more processes want to run than there are cores, they also take each other's caches. The help needs
more of them than `REFERENCE`."""

VERBS = [[verb] for verb in main.VERBS] + [["models", "show"], ["bill", "request"]]


def light_modules() -> list[str]:
    """Dotted names of every module that must import without torch."""
    files = [path for name in LIGHT_PACKAGES for path in sorted((PACKAGE / name).rglob("*.py"))]
    files += [PACKAGE / "cli" / f"{name}.py" for name in (*main.VERBS, "main", "arguments", "terminal")]
    files += sorted(PACKAGE.rglob("settings.py"))
    files += [PACKAGE / name for name in LIGHT_FILES]
    files = [
        path for path in files if path.exists() and "versions" not in path.parts and path.name != "env.py"
    ]
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files}
    return sorted(name.removesuffix(".__init__") for name in names)


def heavy_after(statements: str) -> str:
    """What the statements print in a fresh interpreter: whatever of HEAVY is loaded after them."""
    code = f"import sys, importlib\n{statements}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_light_packages_import_without_torch() -> None:
    statements = (
        f"for name in {light_modules()!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found = {HEAVY!r} & set(sys.modules)\n"
        "    if found: print(name, 'loads', *sorted(found)); break\n"
    )
    assert heavy_after(statements) == ""


def test_the_detector_sees_a_heavy_import() -> None:
    planted = f"sys.modules['torch'] = sys\nprint(*({HEAVY!r} & set(sys.modules)))"
    assert heavy_after(planted) == "torch"


COMPILED = tempfile.TemporaryDirectory(prefix="tuition-compiled-")


def cpu_s(arguments: list[str]) -> tuple[float, str]:
    """Processor time of one run, which its neighbours lengthen less than wall time; and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=quiet_environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def is_busy() -> bool:
    """More processes wanted to run in the last minute than there are cores."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def quiet_environment() -> dict[str, str]:
    """Without the suite's own watch, which every interpreter would import at its start; and with compiled
    modules, as users have them from the second start on."""
    left_out = ("PYTHONPATH", "TUITION_OFFLINE_LOG", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"PYTHONPYCACHEPREFIX": COMPILED.name}


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help_is_quick_and_loads_nothing_heavy(words: list[str]) -> None:
    """The best of several tries, each measured against REFERENCE beside it: a machine may be busy."""
    code = (
        "import contextlib, io, sys\nfrom tuition.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main([*{words!r}, '--help'])\n"
        f"print(*sorted({HEAVY | {'numpy'}!r} & set(sys.modules)))"
    )
    for _ in range(TRIES):
        seconds, heavy = cpu_s(["-c", code])
        assert heavy.strip() == ""  # nor numpy: where nothing is compiled beforehand it takes 0.2 s
        if seconds < HELP_LIMIT_S:
            return
        slowness = cpu_s(["-c", REFERENCE])[0] / REFERENCE_S * (BUSY if is_busy() else 1)
        if seconds < HELP_LIMIT_S * slowness:
            return
    pytest.fail(f"{' '.join(words)} --help took {seconds:.2f} s, slowness {slowness:.1f}")
