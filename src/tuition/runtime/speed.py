"""How quickly this machine multiplies matrices now, with the threads and the number format of a run.

In: device and precision.  Out: floating-point operations per second. It takes a fifth of a second.
"""

import time
from collections.abc import Callable

import torch

from tuition.runtime.device import Precision

ROWS, INNER, COLUMNS = 2_048, 256, 768
"""As in the layers of a small model: large enough to keep the units busy, small enough for a core's cache."""

SECONDS = 0.2


@torch.no_grad()
def product_flops_per_s(
    device: torch.device, precision: Precision, clock: Callable[[], float] = time.monotonic
) -> float:
    """Of plain matrix products, the fastest of several rounds: others may use the machine too."""
    left = torch.ones(ROWS, INNER, dtype=precision.dtype, device=device)
    right = torch.ones(INNER, COLUMNS, dtype=precision.dtype, device=device)
    best, begin = float("inf"), clock()
    while clock() - begin < SECONDS:
        start = clock()
        for _ in range(8):
            product = left @ right
        float(product[0, 0])  # waits for the device
        best = min(best, clock() - start)
    return 8 * 2 * ROWS * INNER * COLUMNS / max(best, 1e-9)
