"""Threads that compute side by side, each with an equal part of the threads that torch may use.

In: calls that do not need each other.  Out: their results, in the order of the calls.
Why not leave it to torch, which splits every operation among all cores: the operations of a small model are
over before the cores have met, so that two cores are hardly faster than one. Whole shares of the work are
worth the meeting (bench/train_step.py).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")

MOST_MEMBERS = 8
"""Python starts one operation at a time; more threads than this wait for it rather than compute."""


def crew_size(num_rows: int, threads: int, device: torch.device) -> int:
    """As many members as rows, threads and Python allow; one where a device computes by itself."""
    return max(1, min(num_rows, threads, MOST_MEMBERS)) if device.type == "cpu" else 1


class Crew:
    """`size` threads, each of which splits an operation among `threads // size`; what is left over rests."""

    def __init__(self, size: int = 1, threads: int = 1) -> None:
        self.size = size
        self._pool: ThreadPoolExecutor | None = None
        if size > 1:
            cores = max(1, threads // size)
            self._pool = ThreadPoolExecutor(
                size, thread_name_prefix="crew", initializer=torch.set_num_threads, initargs=(cores,)
            )

    @classmethod
    def for_rows(cls, num_rows: int, threads: int, device: torch.device) -> "Crew":
        """A crew of `crew_size` members."""
        return cls(crew_size(num_rows, threads, device), threads)

    def run(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """All of them, at once as far as there are members. Raises: what the first failing one raised."""
        if self._pool is None or len(calls) == 1:
            return [call() for call in calls]
        return [future.result() for future in [self._pool.submit(call) for call in calls]]


ALONE = Crew()
"""The caller and nobody else."""
