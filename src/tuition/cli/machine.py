"""`tuition machine`: what is known of this machine; `probe` measures how fast it computes and reads."""

import importlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tuition.cli.arguments import Common, choose, parse
from tuition.core.durable import write_json
from tuition.core.errors import SettingsError, TuitionError
from tuition.core.units import format_bytes, format_count
from tuition.core.workspace import Workspace, open_workspace
from tuition.spec.settings import Device, MachineSettings

if TYPE_CHECKING:
    from tuition.spec.machine import Machine
    from tuition.train.settings import TrainSettings

ACTIONS = {
    "show": "what is known or assumed about this machine, with sources, as JSON",
    "probe": "measure compute and memory speed (seconds), and keep them for receipts and plans",
}


@dataclass(frozen=True, kw_only=True)
class MachineArguments(Common):
    """What `tuition machine` takes."""

    machine: MachineSettings = field(default_factory=MachineSettings)
    """Values that you know for this machine and its price."""


def run(argv: list[str]) -> int:
    """Show or probe."""
    action, rest = choose(ACTIONS, argv, verb="machine", default="show")
    arguments = parse(MachineArguments, rest, verb=f"machine {action}", description=ACTIONS[action])
    return probe(arguments) if action == "probe" else show(arguments)


def detect_for(
    device: Literal["auto", "cpu", "cuda", "mps"], settings: MachineSettings, workspace: Workspace
) -> "Machine":
    """The machine as a verb uses it: what computes on the processor pays for no GPU that stands beside it.

    Raises: SettingsError for a device that is not there, or that is not the one of `settings`.
    """
    from tuition.runtime.cores import device_kind
    from tuition.spec.machine import detect_machine

    kind: Device = device_kind(device)
    if settings.device not in ("auto", kind):
        wanted = f"nothing, or {kind}, on which this verb computes"
        raise SettingsError("machine.device", got=settings.device, wanted=wanted)
    return detect_machine(settings, device=kind, workspace=workspace)


def measured_for(train: "TrainSettings", settings: MachineSettings, workspace: Workspace) -> "Machine":
    """As `detect_for`. A peak that is assumed or from the catalogue, and lower than the speed of plain matrix
    products now, is replaced by that speed, which is kept as a probe: MFU above 100 % would mean nothing."""
    from tuition.runtime.device import choose_device, choose_precision
    from tuition.runtime.speed import product_flops_per_s

    machine = detect_for(train.device, settings, workspace)
    if machine.provenance("peak_flops") not in ("assumed", "catalogue"):
        return machine
    device = choose_device(train.device)
    measured = product_flops_per_s(device, choose_precision("auto", device))
    if measured <= machine.peak_flops:
        return machine
    keep_probe(workspace, detect_for(train.device, MachineSettings(), workspace), {"peak_flops": measured})
    return detect_for(train.device, settings, workspace)


def keep_probe(workspace: Workspace, machine: "Machine", figures: dict[str, Any]) -> Path:
    """Write measured figures where `detect_machine` reads them; returns the file."""
    from tuition.spec.machine import PROBE_FILE

    path = workspace.cache / PROBE_FILE
    write_json(path, {"machine": machine.name, "date": datetime.now(UTC).date().isoformat(), **figures})
    return path


def show(arguments: MachineArguments) -> int:
    from tuition.spec.machine import detect_machine

    machine = detect_machine(arguments.machine, workspace=open_workspace(arguments.workspace))
    print(json.dumps(machine.to_table(), indent=2))
    return 0


PROBE_BYTES = 512 << 20
"""Read in one pass: larger than the caches of any processor, small enough for any machine."""
PROBE_SECONDS = 1.0


def probe(arguments: MachineArguments) -> int:
    """Measure with the native kernels, on one GPU with torch; write the file that receipts and plans read.

    Raises: TuitionError without the kernels (and without a GPU).
    """
    from tuition.spec.hardware import find_processor
    from tuition.spec.machine import detect_machine

    workspace = open_workspace(arguments.workspace).create()
    machine = detect_machine(arguments.machine)
    cores = find_processor().num_cores
    figures = probe_gpu() if machine.device == "cuda" else probe_cpu(cores)
    for name, before in (("peak_flops", machine.peak_flops), ("memory_bandwidth", machine.memory_bandwidth)):
        show_figure = format_count if name == "peak_flops" else format_bytes
        unit = "FLOP/s" if name == "peak_flops" else "/s"
        was = f"was taken to be {show_figure(before)}{unit}, {machine.provenance(name)}"
        print(f"{name:<18} {show_figure(figures[name])}{unit} measured ({was})")
    path = keep_probe(workspace, machine, figures)
    print(f"kept in {path}; receipts and plans use it from now on")
    return 0


def probe_cpu(cores: int) -> dict[str, Any]:
    """Both figures of the processor, all cores; compute is the faster of float32 and bf16."""
    if importlib.util.find_spec("tuition_kernels") is None:
        raise TuitionError(
            "the probe needs the native kernels; `make setup` builds them where there is a C++ compiler"
        )
    kernels = importlib.import_module("tuition_kernels")
    rates = [kernels.matrix_rate(kind, cores, PROBE_SECONDS) for kind in ("float32", "bf16")]
    return {
        "peak_flops": max(rates),
        "memory_bandwidth": kernels.read_bandwidth(PROBE_BYTES, cores, PROBE_SECONDS),
    }


def probe_gpu() -> dict[str, Any]:
    """Both figures of the first GPU: bf16 matrix products, and a copy, which reads and writes."""
    import torch

    side, times = 8_192, 20
    left = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    source = torch.empty(PROBE_BYTES, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    return {
        "peak_flops": 2 * side**3 / gpu_seconds(lambda: left @ left, times),
        "memory_bandwidth": 2 * PROBE_BYTES / gpu_seconds(lambda: target.copy_(source), times),
    }


def gpu_seconds(work: Callable[[], object], times: int) -> float:
    """Mean seconds of one call, after three that warm up."""
    import torch

    for _ in range(3):
        work()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / times
