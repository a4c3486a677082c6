"""Threads that compute at the same time, each with an equal part of the threads that torch may use.

In: calls that do not depend on each other.  Out: their results, in the order of the calls.
Why not leave it to torch, which splits every operation among all cores: the operations of a small model are
so short that most of their time is spent waiting for the other cores, and two cores are hardly faster than
one. A share of the whole batch is long enough (bench/train_step.py).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")

MAX_THREADS = 8
"""Python starts one operation at a time; with more threads than this they wait for it."""


def pool_size(num_rows: int, threads: int, device: torch.device) -> int:
    """As many threads as rows, cores and Python allow; one where the device computes by itself."""
    return max(1, min(num_rows, threads, MAX_THREADS)) if device.type == "cpu" else 1


class ThreadPool:
    """`size` threads, each of which splits an operation among `threads // size` cores."""

    def __init__(self, size: int = 1, threads: int = 1) -> None:
        self.size = size
        self._executor: ThreadPoolExecutor | None = None
        if size > 1:
            cores = max(1, threads // size)
            self._executor = ThreadPoolExecutor(
                size, thread_name_prefix="compute", initializer=torch.set_num_threads, initargs=(cores,)
            )

    @classmethod
    def for_rows(cls, num_rows: int, threads: int, device: torch.device) -> "ThreadPool":
        """A pool of `pool_size` threads."""
        return cls(pool_size(num_rows, threads, device), threads)

    def run(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """All calls, at the same time as far as there are threads. Raises: what the first failing one
        raised."""
        if self._executor is None or len(calls) == 1:
            return [call() for call in calls]
        return [future.result() for future in [self._executor.submit(call) for call in calls]]


NO_POOL = ThreadPool()
"""Everything runs in the calling thread."""
