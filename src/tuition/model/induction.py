"""Fresh weights that copy: a head that sees the token before, and one that sees what followed this token.

In: a decoder with fresh weights.  Out: the same, with an induction head across its first two layers.

What followed a token earlier in the text is a good guess for what follows it now: names, phrases. Models
learn to look there (induction heads, Olsson et al. 2022, arXiv:2209.11895), but late, since both heads must
be there before either is of use; a model that is taught for minutes never does. Here both are there from
the beginning, and teaching goes on from them as from any weights (attention that begins as trained attention
looks: arXiv:2305.09828). Nothing is added to the shape: what is taught is a model like any other.

    layer 0, head 0   query and key are the same for all tokens, and turned against each other by the rotary
                      angle of one position: it sees the token before. Its value is that token.
    layer 1, head 0   query: this token; key: the token before. It sees what stood behind this token earlier,
                      and its output says that token again.

For queries and keys that are the same for all tokens, all embeddings share a part.
"""

from typing import cast

import torch
from torch import Tensor

from tuition.core.errors import ModelError
from tuition.model.decoder import Attention, Decoder, RMSNorm
from tuition.model.rope import rope_frequencies
from tuition.spec.shape import lacks_for_induction

EMBEDDING_STD = 0.05
"""Of an embedding's numbers, and of the part that all share."""
PAIRS = (0.5, 0.2, 0.15, 0.15)
"""Share of the squared length of a query, and of a key, in each of the quickest rotary pairs."""
SHARP_PLACE, SHARP_MATCH = 1.4, 1.5
"""Length of queries and keys in units of sqrt(head_dim), about; scores reach its square * sqrt(head_dim)."""
VALUE = 0.5
"""Singular values of both heads' value matrices."""
COPY = 0.1
"""Singular values of what the second head writes."""
HEAD_STD = 0.02
"""Of the output head's first guess, which is what the second head has written."""


@torch.no_grad()
def give_induction(model: Decoder, generator: torch.Generator | None = None) -> Decoder:
    """Set the first heads of the first two layers, their q/k norms, the embedding and an untied head.

    Raises: ModelError for a shape without room for them.
    """
    shape = model.shape
    if (lack := lacks_for_induction(shape)) is not None:
        way_out = "choose another shape, or begin with random weights"
        raise ModelError("induction heads", f"want {lack}", way_out=way_out)
    width, size = shape.hidden_size, shape.head_dim
    first, second = (cast(Attention, model.layers[layer].attention) for layer in (0, 1))
    shared, *_ = _orthonormal(1, width, generator)
    embedding = model.embedding.weight.normal_(0.0, EMBEDDING_STD, generator=generator)
    embedding -= torch.outer(embedding @ shared, shared)
    embedding += EMBEDDING_STD * width**0.5 * shared

    def space(rows: int) -> Tensor:
        """(rows, width): directions that the shared part has nothing of."""
        return _orthonormal(rows, width, generator, beside=shared)

    rank = min(size, width - 1)
    before, told = space(rank), space(rank)  # how layer 0 reads a token, and where it writes it
    _see_the_token_before(
        first, shared, before, told, torch.from_numpy(rope_frequencies(shape.rope, size)[0])
    )
    _match(second, before, told, generator)
    read = space(rank)
    said = read if model.head is None else space(rank)
    second.value.weight[:rank] = VALUE * read
    second.output.weight[:, :rank] = COPY * said.t()
    if model.head is not None:
        guess = embedding @ read.t() @ said
        model.head.weight.copy_(HEAD_STD / guess.std() * guess)
    return model


def _see_the_token_before(
    attention: Attention, shared: Tensor, before: Tensor, told: Tensor, frequencies: Tensor
) -> None:
    """Layer 0: the score is highest one position back, whatever the tokens are."""
    size, half, pairs = attention.head_dim, attention.head_dim // 2, len(PAIRS)
    length = (torch.tensor(PAIRS) * size).sqrt()
    query, key = torch.zeros(size), torch.zeros(size)
    query[:pairs] = length
    key[:pairs] = length * frequencies[:pairs].cos()  # a key one position back has turned this much less
    key[half : half + pairs] = length * frequencies[:pairs].sin()
    reach = (shared.numel() / 2) ** 0.5  # the normed stream's part along `shared`: half of its square
    _set_head(attention, torch.outer(query, shared) / reach, torch.outer(key, shared) / reach, SHARP_PLACE)
    rank = len(before)
    attention.value.weight[:rank] = VALUE * before
    written = VALUE * (rank / 2) ** 0.5  # of a token, of which half the normed stream's square is left
    attention.output.weight[:, :rank] = EMBEDDING_STD * shared.numel() ** 0.5 / written * told.t()


def _match(attention: Attention, before: Tensor, told: Tensor, generator: torch.Generator | None) -> None:
    """Layer 1: the score is highest where the token before is the present one."""
    size, half = attention.head_dim, attention.head_dim // 2
    slow = half - half // 2  # pairs that turn too little to hide a match far back
    mixed = (size / slow) ** 0.5 * _orthonormal(2 * slow, len(before), generator)  # to length sqrt(head_dim)
    rows = [*range(half - slow, half), *range(size - slow, size)]
    query, key = torch.zeros(size, before.shape[1]), torch.zeros(size, before.shape[1])
    query[rows], key[rows] = mixed @ before, mixed @ told
    key *= (len(told) / told.shape[1]) ** 0.5  # all of a token was written there, a part of it is read here
    _set_head(attention, query, key, SHARP_MATCH)


def _set_head(attention: Attention, query: Tensor, key: Tensor, sharp: float) -> None:
    """Make `query` and `key` (head_dim, hidden) those of the first head, `sharp` times as long.

    Where q/k norms set the length, they are set, for all heads of the layer: their weights are shared.
    """
    size = attention.head_dim
    norms = attention.query_norm, attention.key_norm
    for linear, matrix, norm in zip((attention.query, attention.key), (query, key), norms, strict=True):
        linear.weight[:size] = matrix if isinstance(norm, RMSNorm) else sharp * matrix
        if isinstance(norm, RMSNorm):
            norm.weight.fill_(sharp)


def _orthonormal(
    rows: int, columns: int, generator: torch.Generator | None, beside: Tensor | None = None
) -> Tensor:
    """(rows, columns) random directions at right angles to each other and to `beside`; rows <= columns."""
    drawn = torch.randn(columns, rows, generator=generator)
    if beside is not None:
        drawn = torch.cat((beside[:, None], drawn), dim=1)
    directions = torch.linalg.qr(drawn).Q.t()
    return directions if beside is None else directions[1:]
