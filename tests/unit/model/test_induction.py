"""The heads that find what followed a token: what they see, and that a fresh model copies with them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tuition.core.errors import ModelError
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.model.induction import give_induction
from tuition.spec.shape import ModelShape

SHAPE = ModelShape(512, 128, 2, 2, 2, 64, 64, 256, tied_head=False, qk_norm=True)
SHAPES = {
    "qwen3": SHAPE,
    "llama": replace(SHAPE, qk_norm=False),
    "tied": replace(SHAPE, tied_head=True),
    "grouped": replace(SHAPE, num_heads=4, num_kv_heads=2, head_dim=32),
    "wide llama": replace(SHAPE, hidden_size=512, num_heads=4, num_kv_heads=4, head_dim=32, qk_norm=False),
    "wide": replace(SHAPE, hidden_size=256, num_heads=4, num_kv_heads=1),
}


class Watching(DenseContext):
    """Keeps what the first head of each layer looks at: (batch, seq, seq)."""

    def attend(self, layer, query, key, value, window):
        scores = torch.einsum("bqd,bkd->bqk", query[:, :, 0], key[:, :, 0]) * query.shape[-1] ** -0.5
        ahead = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        self.seen = {**getattr(self, "seen", {}), layer: scores.masked_fill(ahead, -torch.inf).softmax(-1)}
        return super().attend(layer, query, key, value, window)


def fresh(shape: ModelShape, seed: int = 1) -> Decoder:
    generator = torch.Generator().manual_seed(seed)
    return give_induction(Decoder(shape).initialize(generator=generator, outputs="zero"), generator)


def repeated(shape: ModelShape, length: int = 40) -> torch.Tensor:
    """Rows of different random tokens, and the same again: (4, 2 * length)."""
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randperm(shape.vocab_size, generator=generator)[:length] for _ in range(4)]
    once = torch.stack(rows)
    return torch.cat((once, once), dim=1)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_one_head_sees_the_token_before_and_the_other_what_followed(name: str) -> None:
    ids = repeated(SHAPES[name])
    watching = Watching.of_length(ids.shape[1])
    fresh(SHAPES[name])(ids, watching)
    first, second = watching.seen[0], watching.seen[1]
    assert first.diagonal(-1, 1, 2).mean() > 0.5
    length = ids.shape[1] // 2
    behind_match = second.diagonal(1 - length, 1, 2)  # the place behind the same token, one row earlier
    assert behind_match.mean() > 10 / length


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_a_fresh_model_repeats_what_it_has_read(name: str) -> None:
    shape = SHAPES[name]
    model, ids = fresh(shape), repeated(shape)
    logits = model.logits(model(ids, DenseContext.of_length(ids.shape[1])))[:, :-1]
    length = ids.shape[1] // 2
    nats = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    assert nats[:, length + 2 :].mean() < nats[:, : length - 2].mean() - 0.02
    place = (logits > logits.gather(2, ids[:, 1:, None])).sum(-1).float()  # tokens thought likelier
    assert place[:, length + 2 :].median() < shape.vocab_size / 10


def test_it_follows_its_seed_and_leaves_the_other_layers_alone() -> None:
    shape = replace(SHAPE, num_layers=3)
    one, same, other = (fresh(shape, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])
    plain = Decoder(shape).initialize(generator=torch.Generator().manual_seed(1), outputs="zero").state_dict()
    touched = {name for name, value in one.items() if not torch.equal(value, plain[name])}
    parts = ("query", "key", "value", "output", "query_norm", "key_norm")
    heads = {f"layers.{layer}.attention.{part}.weight" for layer in (0, 1) for part in parts}
    assert touched == heads | {"embedding.weight", "head.weight"}


@pytest.mark.parametrize(
    "changes", [{"num_layers": 1}, {"head_dim": 8}, {"hidden_size": 16}, {"hidden_size": 32}]
)
def test_a_shape_without_room_is_refused(changes: dict) -> None:
    with pytest.raises(ModelError, match=r"induction heads: want .*, got \d+"):
        give_induction(Decoder(replace(SHAPE, **changes)))
