"""Laws of the one decoder: names, causality, windows, documents, and what a cast may not do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tuition.core.errors import ShapeError
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.model.gradients import gated_silu, rms_norm, rotate
from tuition.model.rope import rope_frequencies, yarn_attention_factor
from tuition.model.rotary import Rotary
from tuition.spec.counts import num_parameters
from tuition.spec.shape import ModelShape, RopeShape

SHAPE = ModelShape(61, 24, 3, 4, 2, 8, 40, 64, tied_head=False, qk_norm=True, qkv_bias=True)
SEQ_LEN = 20


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def fresh(shape: ModelShape = SHAPE) -> Decoder:
    """Weights large enough that attention is far from uniform."""
    return Decoder(shape).initialize(0.3, torch.Generator().manual_seed(1))


def tokens(batch: int = 2, seq_len: int = SEQ_LEN) -> torch.Tensor:
    return torch.randint(0, SHAPE.vocab_size, (batch, seq_len), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_named_as_the_shape_says(tied: bool) -> None:
    shape = replace(SHAPE, tied_head=tied, output_bias=True, mlp_bias=True)
    decoder = Decoder(shape)
    assert {name: tuple(value.shape) for name, value in decoder.state_dict().items()} == shape.tensor_shapes()
    assert sum(value.numel() for value in decoder.parameters()) == num_parameters(shape)


def test_fresh_weights_follow_their_seed_and_begin_near_uniform() -> None:
    first, second = (Decoder(SHAPE).initialize(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    logits = first.logits(first(tokens(), DenseContext.of_length(SEQ_LEN)))
    assert logits.std() < 0.2
    assert first.layers[0].attention.output.weight.std() < first.layers[0].attention.query.weight.std()


@torch.no_grad()
def test_no_token_sees_what_comes_after_it() -> None:
    decoder, ids = fresh(), tokens()
    before = decoder(ids, DenseContext.of_length(SEQ_LEN))
    ids[:, 12:] = 0
    after = decoder(ids, DenseContext.of_length(SEQ_LEN))
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 13:], after[:, 13:])


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 5])
def test_documents_in_one_row_are_as_if_alone(window: int | None) -> None:
    layers = () if window is None else (0, 2)
    decoder = fresh(replace(SHAPE, sliding_window=window, window_layers=layers))
    ids = tokens(1)
    lengths = (7, 1, 12)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    segments = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])[None]
    packed = decoder(ids, DenseContext(positions, segments))
    alone = [decoder(part, DenseContext.of_length(part.shape[1])) for part in ids.split(lengths, dim=1)]
    torch.testing.assert_close(
        packed, torch.cat(alone, dim=1), rtol=0, atol=1e-5
    )  # the order of sums differs


@torch.no_grad()
def test_a_window_reaches_exactly_as_far_as_it_says() -> None:
    """One layer: the token at position p sees p - window + 1 and not p - window."""
    decoder = fresh(replace(SHAPE, num_layers=1, sliding_window=4, window_layers=(0,)))
    ids = tokens(1)
    before = decoder(ids, DenseContext.of_length(SEQ_LEN))
    ids[0, 5] = (ids[0, 5] + 1) % SHAPE.vocab_size
    changed = (before != decoder(ids, DenseContext.of_length(SEQ_LEN))).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [5, 6, 7, 8]


@torch.no_grad()
def test_the_masked_path_and_the_fast_path_agree() -> None:
    decoder, ids = fresh(), tokens()
    positions = torch.arange(SEQ_LEN)[None]
    fast = decoder(ids, DenseContext(positions))
    masked = decoder(ids, DenseContext(positions, torch.zeros(2, SEQ_LEN, dtype=torch.long)))
    torch.testing.assert_close(fast, masked, rtol=0, atol=1e-5)


@torch.no_grad()
def test_scores_depend_on_distance_only() -> None:
    """Rotary positions: moving a whole row by a constant changes nothing."""
    decoder, ids = fresh(), tokens()
    here = decoder(ids, DenseContext(torch.arange(SEQ_LEN)[None]))
    there = decoder(ids, DenseContext(torch.arange(30, 30 + SEQ_LEN)[None]))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)


def test_rotation_keeps_lengths_and_dtype() -> None:
    rotary = Rotary(SHAPE)
    heads = torch.randn(2, SEQ_LEN, 4, 8, dtype=torch.bfloat16)
    turned = rotate(heads, *rotary.angles(torch.arange(SEQ_LEN)[None])[0])
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.float().norm(dim=-1), heads.float().norm(dim=-1), rtol=2e-2, atol=1e-2)


def test_a_cast_to_bfloat16_keeps_positions_in_float32() -> None:
    decoder = fresh().to(torch.bfloat16)
    [(cos, _)] = decoder.rotary.angles(torch.tensor([[60]]))
    assert cos.dtype == torch.float32
    hidden = decoder(tokens(), DenseContext.of_length(SEQ_LEN))
    assert hidden.dtype == decoder.logits(hidden).dtype == torch.bfloat16


def test_every_parameter_learns_under_autocast() -> None:
    decoder = fresh(replace(SHAPE, output_bias=True, mlp_bias=True, sliding_window=6, window_layers=(1,)))
    with torch.autocast("cpu", torch.bfloat16):
        logits = decoder.logits(decoder(tokens(), DenseContext.of_length(SEQ_LEN)))
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens().flatten()).backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or name.endswith("key.bias"), (
            name
        )  # a shift of all keys cancels


def test_hand_written_gradients_are_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(4)
    heads = torch.randn(2, 5, 3, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, generator=generator, dtype=torch.float64, requires_grad=True)
    up = torch.randn(heads.shape, generator=generator, dtype=torch.float64, requires_grad=True)
    [angles] = Rotary(SHAPE).angles(torch.arange(5)[None])
    cos, sin = (1.3 * part for part in angles)
    left, right = heads.chunk(2, dim=-1)
    plain_turn = torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
    plain_norm = torch.nn.functional.rms_norm(heads, (8,), weight, 1e-5)
    pairs = [
        (rotate(heads, cos, sin), plain_turn),
        (rms_norm(heads, weight, 1e-5, torch.float64), plain_norm),
        (gated_silu(heads, up), torch.nn.functional.silu(heads) * up),
    ]
    for ours, plain in pairs:
        upstream = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)  # the norm computes in float32
        leaves = [heads, weight, up]
        got = torch.autograd.grad(ours, leaves, upstream, allow_unused=True)
        wanted = torch.autograd.grad(plain, leaves, upstream, allow_unused=True)
        for one, other in zip(got, wanted, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_gradients_the_numbers_are_the_same() -> None:
    decoder, ids = fresh(), tokens()
    with torch.enable_grad():
        training = decoder(ids, DenseContext.of_length(SEQ_LEN)).detach()
    assert torch.equal(training, decoder(ids, DenseContext.of_length(SEQ_LEN)))


def test_yarn_without_stretch_is_plain() -> None:
    rope = RopeShape(kind="yarn", factor=1.0, original_context=64)
    frequencies, factor = rope_frequencies(rope, SHAPE.head_dim)
    np.testing.assert_allclose(frequencies, rope_frequencies(SHAPE.rope, SHAPE.head_dim)[0], rtol=1e-6)
    assert factor == yarn_attention_factor(rope) == 1.0


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError):
        DenseContext(torch.arange(4))
    with pytest.raises(ShapeError):
        DenseContext(torch.arange(4)[None], torch.zeros(1, 5))
