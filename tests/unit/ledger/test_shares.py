"""The split of one step: exact Shapley, and what is wrong with dividing by tokens."""

from itertools import permutations

import pytest

from tuition.core.records import SequenceWork
from tuition.ledger.shares import Load, Speeds, StepCosts, arrival_weights, split_step
from tuition.spec import counts
from tuition.spec.shape import ModelShape

SPEEDS = Speeds(flops_per_s=10**12, bytes_per_s=10**10)
WEIGHTS = 200_000_000  # 20 ms to read
DECODE = Load("decode", flops=200_000_000, kv_bytes=5_000_000)  # 0.2 ms or 0.5 ms
CHUNK = Load("prefill", flops=100_000_000_000, kv_bytes=10_000_000)  # 100 ms or 1 ms


def value(members: tuple[Load, ...]) -> float:
    """Modelled seconds of a step with these members."""
    if not members:
        return 0.0
    compute = sum(load.flops for load in members) / SPEEDS.flops_per_s
    memory = (WEIGHTS + sum(load.kv_bytes for load in members)) / SPEEDS.bytes_per_s
    return max(compute, memory)


def test_a_mixed_step_is_split_by_the_exact_shapley_value() -> None:
    """Against the definition: the mean, over all orders of arrival, of what each one adds."""
    loads = (DECODE, DECODE, DECODE, CHUNK, CHUNK)
    exact = [0.0] * len(loads)
    orders = list(permutations(range(len(loads))))
    for order in orders:
        for place, i in enumerate(order):
            before = tuple(loads[j] for j in order[:place])
            exact[i] += (value((*before, loads[i])) - value(before)) / len(orders)
    wall_ns = round(value(loads) * 1e9)
    shares = split_step(loads, wall_ns, weight_bytes=WEIGHTS, speeds=SPEEDS)
    for share, seconds in zip(shares, exact, strict=True):
        assert share.total_as / 1e18 == pytest.approx(seconds, rel=1e-9)


def test_dividing_by_tokens_makes_decodes_pay_far_too_little() -> None:
    """A 512-token chunk beside decodes that read the same weights."""
    loads = [DECODE] * 8 + [CHUNK]
    wall_ns = round(value(tuple(loads)) * 1e9)
    shares = split_step(loads, wall_ns, weight_bytes=WEIGHTS, speeds=SPEEDS)
    by_tokens = wall_ns * 10**9 / (8 + 512)
    assert shares[0].total_as > 5 * by_tokens
    assert shares[-1].total_as > 10 * shares[0].total_as


def test_decodes_share_the_weights_and_pay_their_own_cache() -> None:
    longer = Load("decode", DECODE.flops, 4 * DECODE.kv_bytes)
    wall_ns = round(value((DECODE, DECODE, longer)) * 1e9)
    first, second, third = split_step((DECODE, DECODE, longer), wall_ns, weight_bytes=WEIGHTS, speeds=SPEEDS)
    assert first.total_as == pytest.approx(second.total_as, abs=2)
    assert first.shared_as == pytest.approx(third.shared_as, abs=2)
    assert third.own_as == pytest.approx(4 * first.own_as, rel=1e-9)


def test_the_incremental_rule_charges_decodes_the_decode_only_step() -> None:
    loads = [DECODE] * 4 + [CHUNK]
    wall_ns = round(value(tuple(loads)) * 1e9)
    shares = split_step(loads, wall_ns, weight_bytes=WEIGHTS, speeds=SPEEDS, rule="incremental")
    alone_as = value((DECODE,) * 4) * 1e18
    assert sum(share.total_as for share in shares[:4]) == pytest.approx(alone_as, rel=1e-9)
    assert sum(share.total_as for share in shares) == wall_ns * 10**9


def test_a_step_that_was_faster_than_modelled_is_still_split_completely() -> None:
    for rule in ("shapley", "incremental"):
        shares = split_step([DECODE, CHUNK], 1_000, weight_bytes=WEIGHTS, speeds=SPEEDS, rule=rule)
        assert sum(share.total_as for share in shares) == 1_000 * 10**9
        assert all(share.total_as > 0 for share in shares)


def test_the_chances_of_arrival_sum_to_one() -> None:
    for num_decodes, num_prefills in ((1, 1), (3, 2), (256, 1), (500, 8)):
        assert arrival_weights(num_decodes, num_prefills).sum() == pytest.approx(1, abs=1e-9)


def test_nobody_present_cannot_pay() -> None:
    with pytest.raises(ValueError, match="nobody"):
        split_step([Load("decode", 0, 0)], 5, weight_bytes=1, speeds=SPEEDS)
    assert split_step([Load("decode", 0, 0)], 0, weight_bytes=1, speeds=SPEEDS)[0].total_as == 0


@pytest.mark.parametrize("tokens", [1, 2, 64, 200])
@pytest.mark.parametrize("context", [0, 1, 127, 128, 900])
def test_flops_and_bytes_are_those_of_the_spec(shape: ModelShape, tokens: int, context: int) -> None:
    """The ledger counts the same as spec/counts, layer windows included, only faster."""
    load = StepCosts(shape).load(SequenceWork("r", "prefill", tokens, context, 1))
    assert load.flops == counts.forward_flops(shape, tokens, context, num_logits=1)
    written = tokens * counts.kv_bytes_per_token(shape)
    assert load.kv_bytes == counts.kv_bytes_read(shape, tokens, context) + written


def test_the_short_way_for_a_plain_decode_is_the_long_way() -> None:
    plain = ModelShape(100, 16, 2, 2, 1, 8, 32, 64)
    costs = StepCosts(plain)
    for context in (0, 5, 63):
        load = costs.load(SequenceWork("r", "decode", 1, context, 1))
        assert load.flops == counts.forward_flops(plain, 1, context, num_logits=1)
        written = counts.kv_bytes_per_token(plain)
        assert load.kv_bytes == counts.kv_bytes_read(plain, 1, context) + written


def test_a_prefix_cache_hit_pays_for_reading_and_not_for_computing(shape: ModelShape) -> None:
    costs = StepCosts(shape)
    whole = costs.load(SequenceWork("r", "prefill", 512, 0, 1))
    hit = costs.load(SequenceWork("r", "prefill", 12, 500, 1))
    none_cached = costs.load(SequenceWork("r", "prefill", 12, 0, 1))
    assert hit.flops < whole.flops / 10
    assert hit.kv_bytes > none_cached.kv_bytes
