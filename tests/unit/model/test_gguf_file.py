"""GGUF files that are damaged on purpose: each fault is named, none is followed."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from tuition.core.errors import ModelError
from tuition.export.gguf import export_gguf
from tuition.model.folder import open_model
from tuition.model.gguf_file import GgufFile
from tuition.model.gguf_model import permute, unpermute
from tuition.model.gguf_types import BLOCK_TYPES
from tuition.model.mapped import MappedFile


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(
    keys: list[bytes], tensors: list[bytes], data: bytes = b"", version: int = 3, **counts: int
) -> bytes:
    head = b"GGUF" + struct.pack(
        "<IQQ", version, counts.get("num_tensors", len(tensors)), counts.get("num_keys", len(keys))
    )
    body = head + b"".join(keys) + b"".join(tensors)
    return body + bytes(-len(body) % 32) + data


def read(path: Path, content: bytes) -> GgufFile:
    path.write_bytes(content)
    return GgufFile(MappedFile(path))


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    keys = [
        key("a", 6, struct.pack("<f", 1e-5)),
        key("b", 8, text("naïve")),
        key("c", 9, struct.pack("<IQ3i", 5, 3, -1, 0, 7)),
        key("d", 9, struct.pack("<IQ", 8, 2) + text("x") + text("")),
        key("e", 7, b"\x01"),
    ]
    values = np.arange(6, dtype=np.float32)
    got = read(tmp_path / "a.gguf", file(keys, [tensor("t", (3, 2), 0, 0)], values.tobytes()))
    assert got.metadata == {"a": 1e-05, "b": "naïve", "c": [-1, 0, 7], "d": ["x", ""], "e": True}
    assert got.rows("t").view(np.float32).tolist() == [[0, 1, 2], [3, 4, 5]]


FAULTS: dict[str, tuple[bytes, str]] = {
    "not GGUF": (b"GGML" + bytes(64), "is not a GGUF file"),
    "old": (file([], [], version=1), "GGUF of version 1"),
    "big-endian": (file([], [], version=3 << 24), "is a big-endian GGUF file"),
    "only a head": (b"GGUF\x03\x00", "more bytes"),
    "wild tensor count": (file([], [], num_tensors=2**63), "tensors"),
    "wild key count": (file([], [], num_keys=2**40), "keys"),
    "wild text": (file([struct.pack("<Q", 2**62)], [], bytes(64)), "bytes in a text"),
    "wild list": (file([key("a", 9, struct.pack("<IQ", 4, 2**61))], []), "numbers in a list"),
    "list of lists": (
        file([key("a", 9, struct.pack("<IQ", 9, 1))], [], bytes(64)),
        "list of the unknown type 9",
    ),
    "unknown value": (file([key("a", 99, b"")], [], bytes(64)), "unknown type 99"),
    "not UTF-8": (file([key("a", 8, text(b"\xff\xfe"))], []), "not UTF-8"),
    "key twice": (file([key("a", 7, b"\1"), key("a", 7, b"\1")], []), "'a' twice"),
    "alignment": (file([key("general.alignment", 4, struct.pack("<I", 3))], []), "alignment 3"),
    "no dimensions": (file([], [tensor("t", (), 0, 0)], bytes(64)), "0 dimensions"),
    "many dimensions": (file([], [tensor("t", (1,) * 9, 0, 0)], bytes(64)), "9 dimensions"),
    "zero size": (file([], [tensor("t", (0,), 0, 0)], bytes(64)), "impossible shape"),
    "wild size": (file([], [tensor("t", (2**39, 2**39), 0, 0)], bytes(64)), "needs"),
    "part of a block": (file([], [tensor("t", (33,), 8, 0)], bytes(64)), "impossible shape"),
    "unknown tensor type": (file([], [tensor("t", (1,), 77, 0)], bytes(64)), "unknown type 77"),
    "past the end": (file([], [tensor("t", (64,), 0, 0)], bytes(64)), "needs 256 bytes"),
    "wild offset": (file([], [tensor("t", (1,), 0, 2**63)], bytes(64)), "needs 4 bytes"),
    "overlap": (file([], [tensor("t", (16,), 0, 0), tensor("u", (8,), 0, 32)], bytes(96)), "ends at"),
    "tensor twice": (file([], [tensor("t", (1,), 0, 0), tensor("t", (1,), 0, 32)], bytes(64)), "'t' twice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(fault: str, tmp_path: Path) -> None:
    content, message = FAULTS[fault]
    with pytest.raises(ModelError) as caught:
        read(tmp_path / "a.gguf", content)
    assert message in str(caught.value)


CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "unknown architecture": (
        lambda raw: raw.replace(text("llama"), text("mamba")),
        "known: gemma3, gpt2, granite, llama",
    ),
    "missing tensor": (lambda raw: raw.replace(b"blk.1.ffn_up.weight", b"blk.9.ffn_up.weight"), "is missing"),
    "missing key": (
        lambda raw: raw.replace(b"llama.block_count", b"llama.black_count"),
        "block_count is None",
    ),
    "unknown key": (
        lambda raw: raw.replace(b"llama.rope.dimension_count", b"llama.rope.dimension_kount"),
        "unknown key rope.dimension_kount",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_does_not_describe_its_tensors_is_refused(
    change: str, foreign_folder: Path, tmp_path: Path
) -> None:
    export_gguf(open_model(foreign_folder), tmp_path / "a.gguf", "f32")
    edit, message = CHANGES[change]
    raw = (tmp_path / "a.gguf").read_bytes()
    assert edit(raw) != raw
    (tmp_path / "a.gguf").write_bytes(edit(raw))
    with pytest.raises(ModelError) as caught:
        open_model(tmp_path / "a.gguf")
    assert message in str(caught.value)


def test_types_of_tensors_are_those_of_the_gguf_package() -> None:
    """Held here as data, since importing that package takes a tenth of a second."""
    theirs = {int(kind): (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType}
    assert {number: tuple(kind) for number, kind in BLOCK_TYPES.items()} == theirs


def test_rows_are_put_back_as_they_were() -> None:
    rows = np.arange(4 * 8 * 3).reshape(32, 3)
    assert (unpermute(permute(rows, 4), 4) == rows).all()
    assert permute(rows, 4)[:4, 0].tolist() == [0, 12, 3, 15]  # neighbours are the two halves of one pair
