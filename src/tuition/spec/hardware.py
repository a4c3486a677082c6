"""What hardware this process can see, without torch: processor, cores, memory, instructions, NVIDIA cards.

Reads /proc and /sys on Linux, sysctl on macOS, and NVML where it is installed and finds a driver.
"""

import math
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Quota and period of control groups, version 2."""

_ISA_FLAGS = (
    ("amx", ("amx_bf16", "amx_tile")),
    ("avx512_bf16", ("avx512_bf16",)),
    ("avx512", ("avx512f",)),
    ("avx2", ("avx2", "fma")),
    ("neon", ("asimd",)),
)


@dataclass(frozen=True)
class Processor:
    """The CPU as this process sees it."""

    name: str
    num_cores: int
    """Physical cores that this process may use: affinity and container quota counted."""
    isa: str
    """A row of the catalogue's `isa.csv`: the widest matrix or vector unit."""
    clock_hz: float | None
    memory_bytes: int
    """Memory of the machine, or of the container if that is less."""
    virtual: bool
    """Runs under a hypervisor, so the machine is probably in a data centre."""


@dataclass(frozen=True)
class Card:
    """One NVIDIA GPU."""

    index: int
    name: str
    memory_bytes: int
    power_limit_watts: float | None


def find_processor() -> Processor:
    """Read the properties of the CPU. An unknown property gets the weakest value."""
    info = _cpu_info()
    flags = set(info.get("flags", info.get("Features", "")).split())
    isa = next((name for name, needed in _ISA_FLAGS if flags.issuperset(needed)), "baseline")
    name = info.get("model name") or _mac_name() or platform.processor() or platform.machine()
    if isa == "baseline" and platform.machine() in ("arm64", "aarch64"):
        isa = "neon"  # every 64-bit ARM has it
    return Processor(
        name=" ".join(name.split()),
        num_cores=_num_cores(),
        isa=isa,
        clock_hz=_clock_hz(info),
        memory_bytes=_memory_bytes(),
        virtual="hypervisor" in flags,
    )


def _cpu_info() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    return {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }


def _mac_name() -> str:
    if platform.system() != "Darwin":
        return ""
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
        return answer.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _num_cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(allowed, psutil.cpu_count(logical=False) or allowed)
    quota = quota_cores()
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def quota_cores() -> float | None:
    """Cores' worth of time that a Linux container is granted, None without a limit.

    More threads than that wait for each other in every operation.
    """
    try:
        limit, period = CPU_MAX.read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _memory_bytes() -> int:
    total = psutil.virtual_memory().total
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or `max`
        return total


def _clock_hz(info: dict[str, str]) -> float | None:
    try:
        return float(info["cpu MHz"]) * 1e6
    except (KeyError, ValueError):
        pass
    try:
        frequency = psutil.cpu_freq()
    except (OSError, RuntimeError, NotImplementedError):
        return None
    return frequency.max * 1e6 if frequency and frequency.max else None


def find_cards() -> list[Card]:
    """NVIDIA cards that this process may use, torch's first one first; an empty list without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
        return [_card(index) for index in _visible(pynvml.nvmlDeviceGetCount(), wanted)]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _visible(count: int, wanted: str | None) -> list[int]:
    """NVML's numbers of the cards in CUDA_VISIBLE_DEVICES, which NVML itself does not look at.

    CUDA ends the list at the first entry that names no card, and so do we; a slice of a card (MIG) has no
    counter of its own and is not taken for one. Cards of one kind are numbered alike by both; where kinds are
    mixed, CUDA_DEVICE_ORDER=PCI_BUS_ID makes it so.
    """
    if wanted is None:
        return list(range(count))
    found: list[int] = []
    for entry in wanted.split(","):
        index = _index_of(entry.strip(), count)
        if index is None:
            break
        found.append(index)
    return found


def _index_of(entry: str, count: int) -> int | None:
    if entry.isdecimal():
        return int(entry) if int(entry) < count else None
    if not entry.startswith("GPU-"):
        return None
    try:
        return pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(entry))
    except pynvml.NVMLError:  # an abbreviated or unknown one
        return None


def _card(index: int) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    try:
        limit = pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3
    except pynvml.NVMLError:
        limit = None
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
    return Card(index, name if isinstance(name, str) else name.decode(), int(memory), limit)
