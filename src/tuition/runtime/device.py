"""Which device computes, with how many threads, and whether it is fast in bfloat16; each choice with its
reason.

In: what the user wants, "auto" included.  Out: a torch device, a thread count, a dtype. Nothing is kept
here; threads and memory behaviour are set for the whole process, as torch has them.
"""

import ctypes
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tuition.core.errors import SettingsError
from tuition.runtime.cores import usable_cores

DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]
PrecisionChoice = Literal["auto", "float32", "bfloat16"]

FAST_BF16_FLAGS = ("amx_bf16", "avx512_bf16")
"""What /proc/cpuinfo calls instructions that multiply bfloat16 faster than float32, the faster one first."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class Precision:
    """The dtype of matrix products, and why."""

    dtype: torch.dtype
    reason: str

    @property
    def is_autocast(self) -> bool:
        """Whether forward passes run under autocast; weights stay float32 either way."""
        return self.dtype is not torch.float32


def choose_device(wanted: DeviceChoice = "auto") -> torch.device:
    """The device asked for; auto takes cuda, then mps, then cpu. Raises: SettingsError when there is none of
    it."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if not there[wanted]:
        have = " or ".join(kind for kind, is_there in there.items() if is_there)
        raise SettingsError(
            "device", got=wanted, wanted=f"{have}: this machine and this torch have no {wanted}"
        )
    return torch.device(wanted)


def set_threads(wanted: int | None = None) -> int:
    """Set torch's number of CPU threads to `wanted`, or to one per usable core; returns the number."""
    count = wanted or usable_cores()
    torch.set_num_threads(count)
    return count


def cpu_flags() -> tuple[str, ...]:
    """Instruction sets of the CPU by the kernel's names, sorted; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return tuple(sorted(line.partition(":")[2].split()))
    return ()


def choose_precision(wanted: PrecisionChoice, device: torch.device) -> Precision:
    """The dtype of matrix products on this device; auto takes bfloat16 only where it is faster.

    Raises: SettingsError for bfloat16 on a GPU that cannot do it.
    """
    is_fast, reason = _bf16(device)
    if wanted == "float32":
        return Precision(torch.float32, "float32 was asked for")
    if wanted == "bfloat16":
        if device.type == "cuda" and not is_fast:
            raise SettingsError("precision", got=wanted, wanted=f"float32 here: {reason}")
        return Precision(torch.bfloat16, f"bfloat16 was asked for; {reason}")
    return Precision(torch.bfloat16 if is_fast else torch.float32, reason)


def _bf16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return is_fast, f"this GPU {'multiplies' if is_fast else 'cannot multiply'} bfloat16"
    if device.type == "mps":
        return False, "float32: bfloat16 training is not tried on this GPU"
    flags = set(cpu_flags())
    for flag in FAST_BF16_FLAGS:
        if flag in flags:
            return True, f"bfloat16: this CPU has {flag}"
    return False, f"float32: this CPU has none of {', '.join(FAST_BF16_FLAGS)}"


def prepare_process() -> tuple[str, ...]:
    """Make long CPU loops steady: subnormal numbers count as zero, and freed memory is kept for the next
    step.

    Without the second, glibc gives every large tensor back to the kernel and gets it again, zeroed, page by
    page.
    Returns what could be set, for the run's header.
    """
    done = []
    if torch.set_flush_denormal(True):
        done.append("flush_denormal")
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        if libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES) and libc.mallopt(
            _M_TRIM_THRESHOLD, 2 * _KEPT_BYTES - 1
        ):
            done.append("keep_freed_memory")
    return tuple(done)


def describe_machine() -> dict[str, object]:
    """What must be equal for two runs to be equal bit for bit, as plain JSON values."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": list(cpu_flags()),
        "platform": platform.machine(),
    }
