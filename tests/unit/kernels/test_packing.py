"""The packed layout: every weight can be read back from where the packer put it."""

import numpy as np
import pytest
import torch

pytest.importorskip("tuition_kernels", reason="tuition_kernels is not installed (make setup builds it)")

import tuition_kernels

from tuition.model.quantize import dequantize, quantize


def room(num_bytes: int) -> np.ndarray:
    return np.zeros(num_bytes, np.uint8)


@pytest.mark.parametrize("format", ["float32", "bf16", "int8", "int4", "int4min"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (16, 64), (17, 65), (40, 130)])
@pytest.mark.parametrize(("first", "step"), [(0, 1), (2, 1), (1, 2)])
def test_packed_weights_are_read_back(format: str, rows: int, columns: int, first: int, step: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    buffer = room(1 << 17)
    if format in ("float32", "bf16"):
        tuition_kernels.pack_float(buffer, 64, format, weight.numpy(), first, step)
        want = weight if format == "float32" else weight.bfloat16().float()
    else:
        quantised = quantize(weight, format)  # type: ignore[arg-type]
        minima = None if quantised.minima is None else quantised.minima.view(np.uint16)
        tuition_kernels.pack_integer(
            buffer, 64, format, quantised.q, quantised.scales.view(np.uint16), minima, first, step
        )
        want = dequantize(quantised)
    got = np.empty((rows, columns), np.float32)
    tuition_kernels.unpack(buffer, 64, format, got, first, step)
    np.testing.assert_array_equal(got, want.numpy())


def test_a_matrix_that_does_not_fit_its_buffer_is_refused() -> None:
    weight = np.zeros((16, 64), np.float32)
    with pytest.raises(ValueError, match="does not fit"):
        tuition_kernels.pack_float(room(4096), 64, "float32", weight, 0, 1)


def test_minima_go_with_int4min_only() -> None:
    q, scales = np.zeros((16, 32), np.int8), np.zeros((16, 1), np.uint16)
    with pytest.raises(ValueError, match="int4min"):
        tuition_kernels.pack_integer(room(8192), 0, "int8", q, scales, scales)
    with pytest.raises(ValueError, match="int4min"):
        tuition_kernels.pack_integer(room(8192), 0, "int4min", q, scales, None)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted one of those this machine has"):
        tuition_kernels.matrix_rate("bf16", 1, 0.001, "mmx")


def test_probes_give_rates() -> None:
    assert tuition_kernels.read_bandwidth(1 << 20, 1, 0.01) > 0
    for kind in ("float32", "bf16", "int8"):
        assert tuition_kernels.matrix_rate(kind, 1, 0.01) > 0
