"""Types of the compiled module (src/module.cpp)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LAYOUT_VERSION: int

def available_isas() -> list[str]: ...
def read_bandwidth(num_bytes: int, num_threads: int, seconds: float = 0.5, pin: bool = False) -> float: ...
def matrix_rate(
    kind: str, num_threads: int, seconds: float = 0.5, isa: str = "auto", pin: bool = False
) -> float: ...
def pack_float(
    buffer: NDArray[np.uint8],
    offset: int,
    format: str,
    values: NDArray[np.float32],
    first: int = 0,
    step: int = 1,
) -> None: ...
def pack_integer(
    buffer: NDArray[np.uint8],
    offset: int,
    format: str,
    q: NDArray[np.int8],
    scales: NDArray[np.uint16],
    minima: NDArray[np.uint16] | None,
    first: int = 0,
    step: int = 1,
) -> None: ...
def unpack(
    buffer: NDArray[np.uint8],
    offset: int,
    format: str,
    out: NDArray[np.float32],
    first: int = 0,
    step: int = 1,
) -> None: ...
def uniform(seed: int, position: int) -> float: ...
def draw(
    row: NDArray[np.float32],
    temperature: float,
    top_k: float,
    top_p: float,
    min_p: float,
    at: float,
    isa: str = "auto",
) -> int: ...

class Config:
    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        mlp_size: int,
        context_length: int,
        tied_head: bool,
        norm_eps: float,
        qk_norm: bool,
        qkv_bias: bool,
        output_bias: bool,
        mlp_bias: bool,
        windows: Sequence[int],
        format: str,
        head_format: str,
    ) -> None: ...
    def set_features(
        self,
        *,
        norm: str,
        norm_place: str,
        qk_norm_span: str,
        activation: str,
        gated_mlp: bool,
        learned_positions: bool,
        attention_scale: float,
        embedding_scale: float,
        residual_scale: float,
        rotary_dim: int,
        rotations: Sequence[int],
    ) -> None: ...
    def parts(self) -> list[tuple[str, str, int, int, int, int]]: ...
    @property
    def num_bytes(self) -> int: ...

class Model:
    def __init__(
        self,
        config: Config,
        weights: NDArray[np.uint8],
        cos: NDArray[np.float32],
        sin: NDArray[np.float32],
        *,
        num_blocks: int,
        block_size: int = 32,
        num_threads: int = 1,
        isa: str = "auto",
        pin: bool = False,
        local_cos: NDArray[np.float32] | None = None,
        local_sin: NDArray[np.float32] | None = None,
    ) -> None: ...
    def step(
        self,
        token_ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        starts: NDArray[np.int32],
        context_lengths: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
        variants: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]: ...
    def decode(
        self,
        token_ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        starts: NDArray[np.int32],
        context_lengths: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
        stop_starts: NDArray[np.int32],
        stop_ids: NDArray[np.int32],
        sampling: NDArray[np.float64],
        seeds: NDArray[np.uint64],
        chosen: NDArray[np.int32],
        seconds: float,
        variants: NDArray[np.int32] | None = None,
    ) -> int: ...
    def add_variant(
        self, pairs: Sequence[tuple[int, str, NDArray[np.float32], NDArray[np.float32]]]
    ) -> int: ...
    def remove_variant(self, slot: int) -> None: ...
    def hurry(self, on: bool) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def cache_bytes(self) -> int: ...
    profiling: bool
    def take_profile(self) -> dict[str, float]: ...
