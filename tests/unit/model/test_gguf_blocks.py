"""Blocks of ggml are read bit for bit as the gguf package reads them."""

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from tuition.model.gguf_blocks import values_of

KINDS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "BF16", "F16", "F32"]


@pytest.mark.parametrize("name", KINDS)
def test_every_bit_is_as_the_gguf_package_has_it(name: str) -> None:
    kind = GGMLQuantizationType[name]
    block, width = GGML_QUANT_SIZES[kind]
    rows = np.random.default_rng(0).integers(0, 256, (6, 4 * max(width, 16)), dtype=np.uint8)
    rows = rows[:, : rows.shape[1] // width * width]
    with np.errstate(invalid="ignore"):  # random bytes make scales that are no numbers
        wanted = dequantize(rows, kind)
        got = values_of(rows, kind).numpy()
    assert got.shape == (6, rows.shape[1] // width * block)
    np.testing.assert_array_equal(got, wanted)


def test_formats_that_hold_no_weights_are_refused() -> None:
    with pytest.raises(NotImplementedError):
        values_of(np.zeros((1, 64), np.uint8), GGMLQuantizationType.I32)
