"""Cores and kind of device that this process can use, found without torch.

In: what the user wants.  Out: a number of cores, a kind of device.
"""

import importlib
import math
import os
import sys
from pathlib import Path
from typing import Literal

from tuition.spec.hardware import quota_cores

DeviceKind = Literal["cpu", "cuda", "mps"]
_GPU_FILES = ("nvidia*", "kfd", "dxg")
"""Names under /dev that a driver of a GPU makes: NVIDIA's, AMD's, and the one of Windows' Linux."""


def usable_cores() -> int:
    """Cores that this process may run on: those it is bound to, fewer where a container grants less time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores()
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def device_kind(wanted: Literal["auto", "cpu", "cuda", "mps"]) -> DeviceKind:
    """The kind of device that `device.choose_device` takes. torch is loaded only where a GPU may be.

    Raises: SettingsError when there is none of the kind that is wanted.
    """
    if wanted == "cpu" or (wanted == "auto" and not _gpu_may_be_there()):
        return "cpu"
    return importlib.import_module("tuition.runtime.device").choose_device(wanted).type


def _gpu_may_be_there() -> bool:
    return sys.platform != "linux" or any(any(Path("/dev").glob(name)) for name in _GPU_FILES)
