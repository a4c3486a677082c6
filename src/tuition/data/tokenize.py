"""Many texts to ids, in this process or in several.

In: `Unit`s.  Out: the same units with their ids, in the same order; at most a few batches are in memory.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuition.core.progress import Progress
from tuition.data.units import Unit
from tuition.tokenizer.tokenizer import Tokenizer

BATCH_CHARS = 2**20

_WORTH_PROCESSES_BYTES = 2**26
"""Below this, starting processes takes longer than they save."""


@dataclass(frozen=True, slots=True)
class EncodedUnit:
    """A unit without its text."""

    unit: Unit
    num_bytes: int
    ids: NDArray[np.uint32]


def choose_workers(num_workers: int, total_bytes: int) -> int:
    """Processes to use; 1 means this one, in which the tokenizer uses its own threads."""
    if num_workers:
        return num_workers
    return min(os.cpu_count() or 1, 16) if total_bytes >= _WORTH_PROCESSES_BYTES else 1


def encode_units(
    units: Iterable[Unit], tokenizer: Tokenizer, num_workers: int, progress: Progress
) -> Iterator[EncodedUnit]:
    """Ids of every unit, without special tokens."""
    batches = _batches(units)
    if num_workers > 1:
        yield from _encode_in_processes(batches, tokenizer, num_workers, progress)
        return
    for batch in batches:
        yield from _joined(batch, _to_arrays(tokenizer, [unit.text for unit in batch]))


def _encode_in_processes(
    batches: Iterator[list[Unit]], tokenizer: Tokenizer, num_workers: int, progress: Progress
) -> Iterator[EncodedUnit]:
    """New processes rather than forked ones: a fork of a process with threads may hang."""
    waiting: deque[tuple[list[Unit], Future[_Arrays]]] = deque()
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_set_up_worker,
        initargs=(tokenizer.to_json(),),
    )
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(_encode_in_worker, [unit.text for unit in batch])))
            if len(waiting) >= 2 * num_workers:
                yield from _joined(waiting[0][0], waiting[0][1].result())
                waiting.popleft()
        while waiting:
            yield from _joined(waiting[0][0], waiting[0][1].result())
            waiting.popleft()
    except BrokenProcessPool:
        progress.say(
            "the tokenizing processes ended early (out of memory, or a script without a main guard); "
            "going on in this process"
        )
        for batch in [*(batch for batch, _ in waiting), *batches]:
            yield from _joined(batch, _to_arrays(tokenizer, [unit.text for unit in batch]))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_Arrays = tuple[NDArray[np.uint32], NDArray[np.int64]]
"""All ids of a batch in one array, and how many each text has: cheap to send between processes."""

_worker_tokenizer: list[Tokenizer] = []


def _set_up_worker(tokenizer_json: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = (
        "false"  # one thread for each process: the processes are the parallelism
    )
    _worker_tokenizer[:] = [Tokenizer.from_json(tokenizer_json)]


def _encode_in_worker(texts: list[str]) -> _Arrays:
    return _to_arrays(_worker_tokenizer[0], texts)


def _to_arrays(tokenizer: Tokenizer, texts: list[str]) -> _Arrays:
    rows = [np.array(ids, dtype=np.uint32) for ids in tokenizer.encode_batch(texts, add_bos=False)]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return np.concatenate(rows) if rows else np.empty(0, np.uint32), lengths


def _joined(batch: list[Unit], arrays: _Arrays) -> Iterator[EncodedUnit]:
    ids, lengths = arrays
    ends = np.cumsum(lengths)
    for unit, begin, end in zip(batch, ends - lengths, ends, strict=True):
        yield EncodedUnit(unit, len(unit.text.encode()), ids[begin:end])


def _batches(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    batch, size = [], 0
    for unit in units:
        batch.append(unit)
        size += len(unit.text) + 64  # many tiny documents also fill a batch
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
