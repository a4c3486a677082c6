"""Weights as the native kernels want them: packed once per model and precision, kept in a file, mapped later.

In: a `ModelFolder` and a precision.  Out: `PackedWeights`, one buffer and the digest of what it was made of.

The file's key holds the digests of the model's weight files, the formats and the versions of the layout and
the rounding rules, so that anything that could change the bytes changes the name. A file is used only if its
content has the digest that its label recorded when it was written, and the label its own; otherwise it is
packed again.
"""

import hashlib
import importlib
import json
import mmap
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tuition_kernels

from tuition.core.digests import DigestCache
from tuition.core.durable import publish_folder, write_json
from tuition.core.errors import SettingsError
from tuition.core.progress import Progress
from tuition.core.units import format_bytes, format_duration
from tuition.model.folder import ModelFolder
from tuition.model.formats import ROUNDING_VERSION
from tuition.model.rope import angle_table
from tuition.spec.shape import ModelShape, RopeShape

HEAD_STEP = 16
"""Heads of the kernels are multiples of this."""

_WEIGHTS, _LABEL = "weights.bin", "packed.json"

_HUGE_PAGE = 2 << 20
"""Bytes of a huge page, and the alignment without which the system gives none."""


@dataclass(frozen=True)
class Formats:
    """Number formats of a packed model, and why these."""

    body: str
    """All matrices between embedding and head: float32, bf16, int8, int4 or int4min."""
    head: str
    """The embedding and the output head."""
    reason: str


@dataclass(frozen=True)
class PackedWeights:
    """A packed model in memory."""

    config: tuition_kernels.Config
    buffer: np.ndarray
    """(bytes,) uint8, beginning at a multiple of 64 bytes; where we made it, at a huge page."""
    formats: Formats
    source_digest: str
    """`model/digest` of the tensors that were packed."""
    packed_digest: str
    """SHA-256 of the buffer when it was packed."""


def choose_formats(folder: ModelFolder, precision: str) -> Formats:
    """What `--precision` means for this model. Four bits keep the head in eight: it decides every token and a
    rounded head costs more quality than its bytes are worth. Raises: SettingsError.
    """
    kept = folder.quantised_rows("layers.0.mlp.up.weight")
    source = None if kept is None else kept.type
    if precision == "auto":
        if source in ("Q4_0", "Q4_1"):
            return Formats(
                *_four_bits(source), f"auto: int4, the file's own {source} weights without rounding"
            )
        return Formats("int8", "int8", "auto: int8, half the bytes of bf16 at nearly its quality")
    if precision == "int4":
        exact = f"the file's own {source} weights" if source in ("Q4_0", "Q4_1") else "rounded at load"
        return Formats(*_four_bits(source), exact)
    if precision == "int4min":
        return Formats("int4min", "int8", "asked for")
    if precision in ("float32", "bf16", "int8"):
        return Formats(precision, precision, "asked for")
    raise SettingsError(
        "precision", got=precision, wanted="float32, bf16, int8, int4 or auto with the native runner"
    )


def _four_bits(source: str | None) -> tuple[str, str]:
    return ("int4min" if source == "Q4_1" else "int4"), "int8"


def padded_head(shape: ModelShape) -> int:
    """The size of a head in the kernels: other even sizes are filled up with zeros, which change nothing.

    A head that is normed by itself stays as it is: zeros would change its mean.
    """
    if shape.head_dim % 2 or shape.qk_norm:
        return shape.head_dim
    return -(-shape.head_dim // HEAD_STEP) * HEAD_STEP


def kernel_config(shape: ModelShape, formats: Formats) -> tuition_kernels.Config:
    """The shape as the kernels take it. Raises: ValueError with the reason if they cannot compute it."""
    config = tuition_kernels.Config(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, num_layers=shape.num_layers,
        num_heads=shape.num_heads, num_kv_heads=shape.num_kv_heads, head_dim=padded_head(shape),
        mlp_size=shape.mlp_size, context_length=shape.context_length, tied_head=shape.tied_head,
        norm_eps=shape.norm_eps, qk_norm=shape.qk_norm, qkv_bias=shape.qkv_bias,
        output_bias=shape.output_bias, mlp_bias=shape.mlp_bias,
        windows=[shape.window(layer) or 0 for layer in range(shape.num_layers)],
        format=formats.body, head_format=formats.head,
    )  # fmt: skip
    features = _features(shape)
    if features != _LLAMA:
        if not hasattr(config, "set_features"):
            raise ValueError("the installed kernels compute Llama alone; build those of this version")
        config.set_features(**features)
    return config


def _features(shape: ModelShape) -> dict[str, Any]:
    """What the model has that Llama does not, as the kernels take it. Offsets of norms and the divisor of
    logits are in the packed weights."""
    scale = shape.attention_scale
    rotations = [_rotation(shape, layer) for layer in range(shape.num_layers)]
    return {
        "norm": shape.norm,
        "norm_place": shape.norm_place,
        "qk_norm_span": shape.qk_norm_span,
        "activation": shape.activation,
        "gated_mlp": shape.gated_mlp,
        "learned_positions": shape.positions == "learned",
        # the packed query makes up for heads that are filled up
        "attention_scale": 0.0 if scale is None else scale * (shape.head_dim / padded_head(shape)) ** 0.5,
        "embedding_scale": shape.embedding_scale,
        "residual_scale": shape.residual_scale,
        "rotary_dim": shape.rope.rotary_dim or 0,
        "rotations": [] if set(rotations) == {1} or shape.positions == "learned" else rotations,
    }


def _rotation(shape: ModelShape, layer: int) -> int:
    """0: nothing turns in this layer; else the number of its kind in `ModelShape.ropes`."""
    rope = shape.layer_rope(layer)
    return 0 if rope is None else 1 + shape.ropes.index(rope)


_LLAMA = _features(ModelShape(1, 1, 1, 1, 1, 2, 1, 1))


def padded_angles(shape: ModelShape, rope: RopeShape) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of all positions; those of zeros that fill up a head do not matter."""
    missing = 0 if rope.rotary_dim else (padded_head(shape) - shape.head_dim) // 2
    tables = angle_table(rope, shape.head_dim, shape.context_length)
    cos, sin = (np.pad(table, ((0, 0), (0, missing))) for table in tables)
    return cos, sin


def huge_buffer(num_bytes: int) -> np.ndarray:
    """Zeroed memory of our own, in huge pages where the system has them: the weights are read from one end to
    the other at every step, and small pages stop the processor's prefetching 500 times per 2 MiB.

    Private, because shared memory gets huge pages only where an administrator allowed it beside the usual
    setting. Begins and ends at huge pages, so that the last one is huge too; untouched, it takes no memory.
    """
    size = -(-num_bytes // _HUGE_PAGE) * _HUGE_PAGE
    memory = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, dtype=np.uint8)
    start = -whole.ctypes.data % _HUGE_PAGE
    return whole[start : start + num_bytes]


def load_packed(
    folder: ModelFolder, formats: Formats, cache_folder: Path | None, progress: Progress
) -> PackedWeights:
    """Packed weights, from the cache where they are there and whole, else packed now and kept there.

    `cache_folder`: None keeps nothing. That a folder cannot be written is said, and is no error.
    Raises: ModelError for a model that cannot be read, SettingsError for one that cannot be computed.
    """
    started = time.monotonic()
    config = kernel_config(folder.shape, formats)
    if cache_folder is None or folder.in_memory:
        return _pack_in_memory(folder, formats, config, progress)
    target = cache_folder / f"packed-{_key(folder, formats, cache_folder)}"
    kept = _open_kept(target, formats, config)
    if kept is not None:
        size, took = format_bytes(len(kept.buffer)), format_duration(time.monotonic() - started)
        progress.detail(f"packed weights: {size} read and checked in {took}")
        return kept
    if target.exists():
        progress.say(f"{target} is damaged; packing again")
        shutil.rmtree(target, ignore_errors=True)
    packed = _pack_in_memory(folder, formats, config, progress)
    try:
        publish_folder(target, _writer(packed))
    except OSError as error:  # full, read-only, or another process was faster
        if not target.exists():
            progress.say(f"packed weights are not kept in {cache_folder}: {error}")
    return packed


def _pack_in_memory(
    folder: ModelFolder, formats: Formats, config: tuition_kernels.Config, progress: Progress
) -> PackedWeights:
    buffer = huge_buffer(config.num_bytes)
    total = sum(4 * int(np.prod(size)) for size in folder.shape.tensor_shapes().values())
    with progress.task("pack weights", total, "B") as task:
        packing = importlib.import_module("tuition.engine.native_packing")  # needs torch; kept weights do not
        source = packing.pack_into(buffer, folder, formats, task)
    return PackedWeights(config, buffer, formats, source, buffer_digest(buffer))


def buffer_digest(buffer: np.ndarray) -> str:
    """SHA-256 of the bytes as they are now."""
    return hashlib.sha256(buffer.data).hexdigest()


def _writer(packed: PackedWeights) -> Callable[[Path], None]:
    def fill(staging: Path) -> None:
        with open(staging / _WEIGHTS, "wb") as file:
            file.write(packed.buffer.data)
        label = {"source_digest": packed.source_digest, "packed_digest": packed.packed_digest,
                 "formats": asdict(packed.formats), "num_bytes": len(packed.buffer)}  # fmt: skip
        write_json(staging / _LABEL, label | {"label_digest": _label_digest(label)})

    return fill


def _label_digest(label: dict[str, Any]) -> str:
    """SHA-256 over all that a label says, the digest of the bytes included, so that it vouches for both."""
    return hashlib.sha256(json.dumps(label, sort_keys=True).encode()).hexdigest()


def _open_kept(target: Path, formats: Formats, config: tuition_kernels.Config) -> PackedWeights | None:
    """The weights kept in `target` if they and their label are whole, copied to huge pages; else None."""
    try:
        label: dict[str, Any] = json.loads((target / _LABEL).read_text())
        if label.pop("label_digest") != _label_digest(label):
            return None
        source, recorded = str(label["source_digest"]), str(label["packed_digest"])
        with open(target / _WEIGHTS, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    with mapped:
        if len(mapped) != config.num_bytes:
            return None
        buffer = huge_buffer(len(mapped))
        buffer[:] = np.frombuffer(mapped, dtype=np.uint8)
    if buffer_digest(buffer) != recorded:
        return None
    return PackedWeights(config, buffer, formats, source, recorded)


def _key(folder: ModelFolder, formats: Formats, cache_folder: Path) -> str:
    """What the packed bytes depend on, as 32 hex digits."""
    digests = DigestCache(cache_folder)
    facts = {
        "layout": tuition_kernels.LAYOUT_VERSION,
        "rounding": ROUNDING_VERSION,
        "formats": [formats.body, formats.head],
        "shape": asdict(folder.shape),
        "files": {file.name: digests.digest(file) for file in folder.files},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
