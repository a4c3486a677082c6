"""Does it fit? Bytes for weights, for training and for the cache, held against what the machine has. No
torch.

In: a shape and a free amount of memory.  Out: numbers, or a `CapacityError` that shows both sides.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuition.core.errors import CapacityError
from tuition.spec.counts import kv_bytes_per_token, num_parameters
from tuition.spec.shape import ModelShape

WEIGHT_BITS: dict[str, float] = {"float32": 32.0, "bf16": 16.0, "int8": 8.5, "int4": 4.5, "int4min": 5.0}
"""Bits per weight in each precision; the halves are the scales of groups of 32, and their minima."""
_CHOICES = ("float32", "bf16", "int8", "int4")
"""Those that --precision takes, the largest first; int4 is int4min where the file itself is in that."""

OptimizerName = Literal["adamw", "muon"]
_OPTIMIZER_COPIES: dict[OptimizerName, int] = {"adamw": 2, "muon": 2}
"""float32 numbers kept per weight; Muon's matrices need one, what is beside them is AdamW's."""

_LONGEST_KEPT_ROW = 512
"""Tokens of the longest rows whose attention keeps its scores for the backward pass: see train/attention."""
CHUNK_ROWS = 256
"""Rows whose logits each thread of a pool holds at once: train/losses takes that many."""
_LOGIT_BYTES = 14
"""A logit while it is taught: its float32 value and probability, and both of the chunk before, the latter
rounded to the products' bfloat16 where that is narrower."""

_LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_USED_FILES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
_STAT_FILES = ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat")


@dataclass(frozen=True)
class ServingMemory:
    """What serving a model takes beside its weights."""

    workspace: int
    """Bytes of a step's activations and logits."""
    cache: int
    """Bytes of the blocks of keys and values."""
    num_blocks: int

    @property
    def total(self) -> int:
        return self.workspace + self.cache


def available_memory(device_free: int | None = None) -> int:
    """Bytes that can be taken now: `device_free` where it is given, else the machine's or container's."""
    if device_free is not None:
        return device_free
    free = _available_from_kernel()
    for limit_file, used_file, stat_file in zip(_LIMIT_FILES, _USED_FILES, _STAT_FILES, strict=True):
        limit, used = _number_in(limit_file), _number_in(used_file)
        if limit is not None and used is not None and limit < 2**60:
            free = min(free, max(limit - used + _cached_in(stat_file), 0))
    return free


def _available_from_kernel() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _number_in(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _cached_in(path: str) -> int:
    """Bytes of file pages that a container is charged for and the kernel gives back when asked."""
    try:
        words = (line.split() for line in Path(path).read_text().splitlines())
        return next((int(number) for name, number in words if name == "inactive_file"), 0)
    except (OSError, ValueError):
        return 0


def weight_bytes(shape: ModelShape, precision: str = "bf16") -> int:
    """Bytes of all weights in a precision of `WEIGHT_BITS`; a vector's extra bits are too few to count."""
    return math.ceil(num_parameters(shape) * WEIGHT_BITS[precision] / 8)


def step_bytes(shape: ModelShape, token_budget: int, max_batch: int) -> int:
    """Most bytes of float32 activations and logits alive at once in one engine step."""
    per_token = 4 * (4 * shape.hidden_size + 2 * shape.query_size + 2 * shape.kv_size + 2 * shape.mlp_size)
    return token_budget * per_token + 4 * max_batch * shape.vocab_size


@dataclass(frozen=True)
class TrainingMemory:
    """What teaching a model takes."""

    states: int
    """Bytes of weights, gradients and optimizer."""
    activations: int
    """Bytes of what one microbatch keeps for its backward pass."""

    @property
    def total(self) -> int:
        return self.states + self.activations


def logit_bytes(shape: ModelShape, batch_tokens: int, members: int) -> int:
    """Most bytes that a pool holds while it takes the loss of `batch_tokens`: each a chunk's logits, and
    the head's gradient a second time, before it is scaled.
    """
    num_rows = min(batch_tokens, members * CHUNK_ROWS)
    return _LOGIT_BYTES * num_rows * shape.vocab_size + 4 * members * shape.vocab_size * shape.hidden_size


def training_memory(
    shape: ModelShape, batch_tokens: int, seq_len: int, optimizer: OptimizerName = "adamw", members: int = 1
) -> TrainingMemory:
    """What training takes, about.

    `batch_tokens`: tokens of one microbatch. `members`: threads that share its rows, each with gradients of
    its own. Activations are counted as float32, rather too much than too little; scores of attention for the
    short rows that keep them. Logits are made for some rows at a time and never kept.
    """
    streams = 6 if shape.norm_place != "both" else 8  # a norm keeps what it reads
    kept = streams * shape.hidden_size + 4 * shape.query_size + 4 * shape.kv_size + 4 * shape.mlp_size
    if seq_len <= _LONGEST_KEPT_ROW:
        kept += shape.num_heads * seq_len
    logits = logit_bytes(shape, batch_tokens, members)
    masks = 4 * batch_tokens * seq_len
    return TrainingMemory(
        states=4 * num_parameters(shape) * (1 + members + _OPTIMIZER_COPIES[optimizer]),
        activations=4 * batch_tokens * kept * shape.num_layers + logits + masks,
    )


@dataclass(frozen=True)
class TunedWeights:
    """Weights of a base while it is taught."""

    held: int
    """Bytes of the weights that do not change."""
    trained: int
    """Parameters that are trained, in float32."""


def tuning_memory(
    shape: ModelShape,
    weights: TunedWeights,
    batch_tokens: int,
    longest: int,
    members: int,
    *,
    recomputes: bool,
) -> TrainingMemory:
    """What teaching a base with AdamW takes, about, in batches of `batch_tokens` whose longest example has
    `longest`.

    `recomputes`: only the input of each layer is kept, and the `members` compute one layer again at a time.
    """
    inside = 6 * shape.hidden_size + 4 * shape.query_size + 4 * shape.kv_size + 4 * shape.mlp_size
    inside += shape.num_heads * min(longest, _LONGEST_KEPT_ROW)
    per_token = shape.num_layers * shape.hidden_size + inside if recomputes else shape.num_layers * inside
    copies = 1 + members + _OPTIMIZER_COPIES["adamw"]
    return TrainingMemory(
        states=weights.held + 4 * weights.trained * copies,
        activations=4 * batch_tokens * per_token + logit_bytes(shape, batch_tokens, members),
    )


def require_tuning(
    shape: ModelShape, weights: TunedWeights, batch_tokens: int, longest: int, members: int, free: int | None
) -> bool:
    """Whether activations have to be recomputed so that it fits. Raises: CapacityError where that is not
    enough."""
    available = available_memory(free)
    kept, recomputed = (
        tuning_memory(shape, weights, batch_tokens, longest, members, recomputes=recomputes)
        for recomputes in (False, True)
    )
    if kept.total <= available:
        return False
    what = f"teaching a base of {num_parameters(shape):,} parameters in batches of {batch_tokens:,} tokens"
    smaller = "a smaller base, or a machine with more memory"
    if recomputed.states > available:
        way_out = f"take --adapter lora, --frozen int8, {smaller}"
    else:
        way_out = f"lower batch_tokens or seq_len, or take {smaller}"
    require(what, recomputed.total, available, way_out=way_out)
    return True


def require(what: str, need: int, free: int | None = None, *, way_out: str) -> None:
    """Refuse what is larger than the memory that is free, with both numbers. Raises: CapacityError."""
    available = available_memory(free)
    if need > available:
        raise CapacityError(what, need=need, free=available, unit="bytes", way_out=way_out)


def require_model(
    shape: ModelShape, precision: str = "bf16", free: int | None = None, name: str = "this model"
) -> None:
    """Refuse a model whose weights alone do not fit an engine. Raises: CapacityError."""
    fewer = _CHOICES[_CHOICES.index("int4" if precision == "int4min" else precision) + 1 :]
    smaller = f"fewer bits (--precision {' or '.join(fewer)}), " if fewer else ""
    require(
        f"{name} in {precision}",
        weight_bytes(shape, precision),
        free,
        way_out=f"use a smaller model, {smaller}or a machine with more memory",
    )


def require_training(
    shape: ModelShape,
    batch_size: int,
    seq_len: int,
    optimizer: OptimizerName = "adamw",
    free: int | None = None,
    members: int = 1,
) -> None:
    """Refuse a model that does not fit while it is taught, in rows of `seq_len`. Raises: CapacityError."""
    available = available_memory(free)
    memory = training_memory(shape, batch_size * seq_len, seq_len, optimizer, members)
    if memory.states > available:
        what, need = f"teaching a model of {num_parameters(shape):,} parameters", memory.states
        fewer = "threads, " if members > 1 else ""
        way_out = f"lower {fewer}shape.hidden_size, shape.num_layers or vocab_size"
    else:
        what, need = f"teaching in batches of {batch_size:,} rows of {seq_len:,} tokens", memory.total
        way_out = "lower batch_size (accumulation makes up for it), seq_len or the sizes under shape"
    require(what, need, available, way_out=way_out)


def block_bytes(shape: ModelShape, block_size: int, bytes_per_value: int = 2) -> int:
    """Bytes of one cache block: `block_size` positions in every layer."""
    return block_size * kv_bytes_per_token(shape, bytes_per_value)


def cache_blocks(
    shape: ModelShape,
    *,
    block_size: int,
    max_batch: int,
    token_budget: int,
    bytes_per_value: int = 2,
    free: int | None = None,
    limit: int,
) -> ServingMemory:
    """How many cache blocks there is room for, beside a step's workspace; the weights are in memory already.

    `free`: bytes that can be taken (None: asked of the machine). `limit`: most bytes for the cache. Never
    more blocks than `max_batch` full contexts fill.
    Raises: CapacityError if not even one full context fits, or `limit` is more than is free.
    """
    workspace = step_bytes(shape, token_budget, max_batch)
    room = available_memory(free) - workspace
    if limit > room:
        raise CapacityError(
            "the cache asked for, beside the weights", need=limit, free=max(room, 0), unit="bytes",
            way_out="lower cache_bytes or use fewer bits per weight",
        )  # fmt: skip
    one = block_bytes(shape, block_size, bytes_per_value)
    context_blocks = math.ceil(shape.context_length / block_size)
    num_blocks = min(limit // one, max_batch * context_blocks)
    if num_blocks < context_blocks:
        raise CapacityError(
            f"a cache for one context of {shape.context_length:,} tokens", need=context_blocks * one,
            free=limit, unit="bytes",
            way_out="raise cache_bytes, use fewer bits per weight, or a model with a shorter context",
        )  # fmt: skip
    return ServingMemory(workspace=workspace, cache=num_blocks * one, num_blocks=num_blocks)
