"""What a shape costs, counted exactly: parameters, FLOPs, bytes. Integers only, no torch.

A multiply-add is two FLOPs. Attention is counted causally (a token sees itself and what is before it) and
with sliding windows where the shape has them; norms, activations and softmax are left out, as is usual.
"""

import math
from collections.abc import Sequence

from tuition.spec.shape import ModelShape


def num_parameters(shape: ModelShape) -> int:
    """Trainable parameters; a tied head is counted once."""
    return sum(math.prod(size) for size in shape.tensor_shapes().values())


def num_active_parameters(shape: ModelShape) -> int:
    """Parameters that work on every token: without what is looked up by token or position, with the head."""
    embedding = 0 if shape.tied_head else shape.vocab_size * shape.hidden_size
    positions = shape.context_length * shape.hidden_size if shape.positions == "learned" else 0
    return num_parameters(shape) - embedding - positions


def layer_matrix_parameters(shape: ModelShape) -> int:
    """Entries of one layer's matrices: multiplied for every token that passes through the layer."""
    return sum(rows * columns for rows, columns, _ in shape.linears().values())


def head_matrix_parameters(shape: ModelShape) -> int:
    """Entries of the output head: multiplied for every token whose logits are computed."""
    return shape.vocab_size * shape.hidden_size


def kv_bytes_per_token(shape: ModelShape, bytes_per_value: int = 2) -> int:
    """Bytes that one more token adds to the cache of keys and values; bfloat16 by default."""
    return 2 * shape.num_layers * shape.kv_size * bytes_per_value


def visible_keys(num_tokens: int, context_tokens: int, window: int | None = None) -> int:
    """Pairs of query and key in one layer:
    `num_tokens` new tokens behind `context_tokens` that are cached.
    """
    if window is None:
        return num_tokens * context_tokens + num_tokens * (num_tokens + 1) // 2
    growing = min(max(window - context_tokens, 0), num_tokens)  # tokens that still see everything
    return visible_keys(growing, context_tokens) + (num_tokens - growing) * window


def attention_flops(shape: ModelShape, num_tokens: int, context_tokens: int) -> int:
    """Scores and weighted sums of all layers, projections left out."""
    pairs = sum(
        visible_keys(num_tokens, context_tokens, shape.window(layer)) for layer in range(shape.num_layers)
    )
    return 4 * shape.query_size * pairs


def forward_flops(
    shape: ModelShape, num_tokens: int, context_tokens: int, num_logits: int | None = None
) -> int:
    """FLOPs of passing `num_tokens` new tokens of one sequence forward, behind `context_tokens` in the cache.

    `num_logits`: rows for which the head is computed; None means every new token, as in training.
    """
    rows = num_tokens if num_logits is None else num_logits
    layers = 2 * shape.num_layers * layer_matrix_parameters(shape) * num_tokens
    head = 2 * head_matrix_parameters(shape) * rows
    return layers + head + attention_flops(shape, num_tokens, context_tokens)


def training_flops(shape: ModelShape, num_tokens: int, seq_len: int) -> int:
    """FLOPs of one forward and backward pass over `num_tokens` in rows of `seq_len`; the backward costs
    twice.

    For long rows this is 6 N + 6 L d S per token (N parameters without norms and biases, L layers, d width of
    the queries, S tokens of a row).
    """
    rows, rest = divmod(num_tokens, seq_len)
    return 3 * (rows * forward_flops(shape, seq_len, 0) + forward_flops(shape, rest, 0))


def kv_bytes_read(shape: ModelShape, num_tokens: int, context_tokens: int, bytes_per_value: int = 2) -> int:
    """Bytes of cached keys and values that the attention of one sequence reads in one step.

    Each layer reads once what its tokens see together: the context (or what windows reach of it) and
    themselves.
    """
    total = 0
    for layer in range(shape.num_layers):
        window = shape.window(layer)
        reach = context_tokens if window is None else min(context_tokens, max(window - 1, 0))
        total += 2 * shape.kv_size * bytes_per_value * (reach + num_tokens)
    return total


def decode_bytes(
    shape: ModelShape,
    contexts: Sequence[int],
    weight_bits: float = 16.0,
    kv_bytes_per_value: int = 2,
) -> int:
    """Bytes read from memory to decode one token for each of the sequences with these contexts, together.

    Weights are read once for the whole batch (the input embedding by rows, hence not counted), the cache
    for each.
    """
    weights = math.ceil(num_active_parameters(shape) * weight_bits / 8)
    return weights + sum(kv_bytes_read(shape, 1, context, kv_bytes_per_value) for context in contexts)
