"""Steps of plain decodes in fixed shapes: padded to a bucket, and replayed as a CUDA graph where there is
CUDA.

A step of a small model takes less time on a GPU than the launch of its kernels from Python. A graph launches
all of them at once, but only over the tensors that it was recorded with. On other devices the same code runs
without recording; the tests use that.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuition.engine.batch import StepBatch
from tuition.engine.torch_cache import BlockCache, Group, PagedContext, padded_slots, write_slots
from tuition.model.decoder import Decoder

SHORTEST = 128
"""Tokens of the smallest bucket of lengths."""
LARGEST_MASK = 64 << 20
"""Padded positions (sequences x length) beyond which a step is not worth padding."""


def bucket(number: int, least: int = 1) -> int:
    """The next power of two."""
    return max(least, 1 << (number - 1).bit_length())


class _Recorded:
    """One bucket: tensors with fixed addresses, and the graph over them."""

    def __init__(
        self, decoder: Decoder, cache: BlockCache, count: int, length: int, pool: Any = None
    ) -> None:
        device = decoder.embedding.weight.device
        self.tokens = torch.zeros((1, count), dtype=torch.int32, device=device)
        self.positions = torch.zeros((1, count), dtype=torch.int32, device=device)
        self.write = torch.full((count,), cache.spill_slot, dtype=torch.int64, device=device)
        self.read = torch.full((count * length,), cache.zero_slot, dtype=torch.int64, device=device)
        self._decoder, self._cache, self._count, self._length = decoder, cache, count, length
        self._pool = pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None

    def _compute(self) -> Tensor:
        group = Group(
            count=self._count,
            most=1,
            rows=slice(0, self._count),
            kept=None,
            slots=self.read,
            query_positions=self.positions[0][:, None],
            length=self._length,
            needs_mask=True,
            fresh=False,
        )
        context = PagedContext(self._cache, self.positions, self.write, [group])
        return self._decoder.logits(self._decoder(self.tokens, context)[0])

    def run(self) -> Tensor:
        """(count, vocab)"""
        if self.tokens.device.type != "cuda":
            return self._compute()
        if self._graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries initialize outside the recording
                self._compute()
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=self._pool):
                self._logits = self._compute()
        self._graph.replay()
        if self._logits is None:
            raise RuntimeError("a CUDA graph was recorded without a result")
        return self._logits


class DecodeGraphs:
    """Buckets by number of sequences and length, recorded at first use."""

    def __init__(self, decoder: Decoder, cache: BlockCache, max_batch: int) -> None:
        self._decoder, self._cache, self._max_batch = decoder, cache, max_batch
        # buckets share memory: a result is copied away before the next replay
        on_gpu = decoder.embedding.weight.device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if on_gpu else None
        self._buckets: dict[tuple[int, int], _Recorded] = {}

    @property
    def num_buckets(self) -> int:
        """Shapes met so far."""
        return len(self._buckets)

    def takes(self, batch: StepBatch) -> bool:
        """Whether every sequence has one row, and padding is worth it."""
        count = len(batch.context_lengths)
        if len(batch.token_ids) != count or len(batch.logit_rows) != count:
            return False
        return bucket(count) * bucket(int(batch.context_lengths.max()) + 1, SHORTEST) <= LARGEST_MASK

    def compute(self, batch: StepBatch) -> Tensor:
        """Logits (count, vocab); the tensor is overwritten by the next call of the same bucket."""
        count = len(batch.context_lengths)
        totals = batch.context_lengths + 1
        size, length = bucket(count), bucket(int(totals.max()), SHORTEST)
        key = (size, length)
        if key not in self._buckets:
            self._buckets[key] = _Recorded(self._decoder, self._cache, size, length, self._pool)
        one = self._buckets[key]
        read = np.full((size, length), self._cache.zero_slot, np.int64)
        read[:count] = padded_slots(self._cache, batch.block_tables, totals, length)
        write = np.full(size, self._cache.spill_slot, np.int64)
        write[:count] = write_slots(batch, self._cache.block_size)
        one.tokens[0, :count].copy_(torch.from_numpy(batch.token_ids))
        one.positions.zero_()
        one.positions[0, :count].copy_(torch.from_numpy(batch.positions))
        one.write.copy_(torch.from_numpy(write))
        one.read.copy_(torch.from_numpy(read.reshape(-1)))
        return one.run()[:count]
