"""Number formats: what rounding may cost, and what must come back exactly."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize as gguf_quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import ShapeError
from tuition.model.formats import BITS, GROUP, from_blocks
from tuition.model.quantize import dequantize, quantize

FORMATS = list(BITS)
GGUF = {"int8": "Q8_0", "int4": "Q4_0", "int4min": "Q4_1"}


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


@pytest.mark.parametrize("format", FORMATS)
@given(rows=st.integers(1, 5), columns=st.integers(1, 100), seed=st.integers(0, 1000), scale=st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_no_weight_moves_by_more_than_a_step(
    format: str, rows: int, columns: int, seed: int, scale: float
) -> None:
    """Half a step for what is not clipped, and clipping is chosen only where it costs less in all."""
    weight = gaussian(rows, columns, seed) * 10**scale
    quantised = quantize(weight, format)  # type: ignore[arg-type]
    assert quantised.q.shape == (rows, columns)
    assert quantised.scales.shape == (rows, -(-columns // GROUP))
    low, high = (-127, 127) if format == "int8" else (0, 15)
    assert quantised.q.min() >= low
    assert quantised.q.max() <= high
    step = np.abs(quantised.scales.astype(np.float32)).repeat(GROUP, 1)[:, :columns]
    moved = (dequantize(quantised) - weight).abs().numpy()
    floor = 4e-6 + weight.abs().numpy() * 2.0**-10  # float16: the smallest is 6e-8, and minima are rounded
    assert (moved <= (0.52 if format == "int8" else 3.0) * step + floor).all()


@pytest.mark.parametrize(("format", "bound"), [("int8", 0.006), ("int4", 0.09), ("int4min", 0.08)])
def test_the_error_is_that_of_the_format(format: str, bound: float) -> None:
    """Of normal weights: a uniform step's rms, root of 1/12, relative to a group's largest weight."""
    weight = gaussian(64, 512)
    error = (dequantize(quantize(weight, format)) - weight).norm() / weight.norm()  # type: ignore[arg-type]
    assert error < bound


@pytest.mark.parametrize("format", FORMATS)
def test_rounding_is_no_worse_than_gguf(format: str) -> None:
    """At equal bits: the search for a scale never loses against the plain rule."""
    weight = gaussian(64, 512, seed=4)
    theirs = from_blocks(GGUF[format], gguf_quantize(weight.numpy(), GGMLQuantizationType[GGUF[format]]))
    assert theirs is not None
    their_error = (dequantize(theirs) - weight).norm()
    assert (dequantize(quantize(weight, format)) - weight).norm() <= their_error * 1.0001  # type: ignore[arg-type]


@given(seed=st.integers(0, 1000), columns=st.integers(1, 4), spread=st.floats(0.5, 3))
@settings(max_examples=30, deadline=None)
def test_four_bits_keep_the_weights_length_along_themselves(seed: int, columns: int, spread: float) -> None:
    """The error of a group stands at a right angle to it; the scale of least squares would be 0.7 % short."""
    weight = gaussian(4, columns * GROUP, seed)
    weight = (weight.sign() * weight.abs() ** spread).reshape(-1, GROUP).double()
    weight /= weight.abs().amax(1, keepdim=True)  # scales that float16 says to 2^-11
    rounded = dequantize(quantize(weight.float(), "int4")).double()
    kept = (rounded * weight).sum(1) / weight.square().sum(1)
    torch.testing.assert_close(kept, torch.ones_like(kept), rtol=0, atol=2.0**-11 + 1e-6)


def test_four_bits_point_where_the_weights_do_as_well_as_any_step() -> None:
    """A search ten times as fine gains less than a percent of the error at right angles."""
    weight = gaussian(64, 512, seed=5).reshape(-1, GROUP)

    def sine(q: torch.Tensor) -> torch.Tensor:
        return 1 - (q * weight).sum(1).square() / q.square().sum(1) / weight.square().sum(1)

    extreme = weight.gather(1, weight.abs().argmax(1, keepdim=True)) / -8
    every = [(weight / extreme / step).round().clamp(-8, 7) for step in np.linspace(0.7, 1.3, 80).tolist()]
    best = torch.stack([sine(q) for q in every]).amin(0)
    ours = sine(torch.from_numpy(quantize(weight, "int4").q).float() - 8)
    assert ours.sum() < 1.01 * best.sum()


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_file_stored_comes_back_exactly(format: str) -> None:
    """From raw blocks, and also from the float32 values that they stand for."""
    blocks = gguf_quantize(gaussian(8, 96, seed=2).numpy(), GGMLQuantizationType[GGUF[format]])
    stored = from_blocks(GGUF[format], blocks)
    assert stored is not None
    assert stored.format == format
    values = dequantize(stored)
    again = dequantize(quantize(values, format))  # type: ignore[arg-type]
    assert ((again - values).abs().max() / values.abs().max()) < (1e-6 if format != "int4min" else 0.01)


def test_a_group_of_zeros_stays_zero() -> None:
    for format in FORMATS:
        assert not dequantize(quantize(torch.zeros(2, 64), format)).any()  # type: ignore[arg-type]


def test_types_of_another_kind_are_not_guessed() -> None:
    assert from_blocks("Q6_K", np.zeros((1, 210), np.uint8)) is None


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ShapeError, match="matrix"):
        quantize(torch.zeros(3), "int8")
