"""Native CPU kernels of tuition: packed weights, block cache, one call per engine step."""

from tuition_kernels._native import (
    LAYOUT_VERSION,
    Config,
    Model,
    available_isas,
    draw,
    matrix_rate,
    pack_float,
    pack_integer,
    read_bandwidth,
    uniform,
    unpack,
)

__all__ = [
    "LAYOUT_VERSION",
    "Config",
    "Model",
    "available_isas",
    "draw",
    "matrix_rate",
    "pack_float",
    "pack_integer",
    "read_bandwidth",
    "uniform",
    "unpack",
]
