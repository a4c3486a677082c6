"""The kernels' draw against numpy's (engine/sampler): the same rule, though not the same last bits."""

import numpy as np
import pytest

pytest.importorskip("tuition_kernels", reason="tuition_kernels is not installed (make setup builds it)")

import tuition_kernels

from tuition.engine import sampler
from tuition.engine.request import Sampling
from tuition.engine.sampler import SEED_MASK, uniform

ISAS = tuition_kernels.available_isas()
SIZES = [61, 2_048, 49_152]
SETTINGS = [
    Sampling(), Sampling(temperature=0.3), Sampling(temperature=2.0), Sampling(top_p=0.95),
    Sampling(top_p=0.4), Sampling(temperature=2.0, top_p=0.999), Sampling(top_k=5),
    Sampling(top_k=40, top_p=0.9), Sampling(top_k=1_500), Sampling(min_p=0.05),
    Sampling(top_p=0.9, min_p=0.1), Sampling(temperature=0.7, top_k=300, top_p=0.95, min_p=0.02),
]  # fmt: skip


def draw(row: np.ndarray, sampling: Sampling, at: float, isa: str = "auto") -> int:
    return tuition_kernels.draw(
        row, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, at, isa
    )


def row_of(random: np.random.Generator, size: int, kind: str) -> np.ndarray:
    """`flat` as of an untrained network, `peaked` as of a trained one, `ties` of few different values."""
    row = random.standard_normal(size).astype(np.float32) * 2
    if kind == "peaked":
        row[random.integers(0, size, 20)] += random.uniform(4, 14, 20).astype(np.float32)
    return np.round(row) if kind == "ties" else row


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("isa", ISAS)
def test_both_draws_take_the_same_token(isa: str, size: int) -> None:
    """Exponentials and the order of sums differ in the last bits of float32, so the end of a cut or of a
    token's share may move by 1e-5 of the whole: where the draw falls so close to it, tokens may differ.
    """
    random = np.random.default_rng(size)
    num = different = unexplained = 0
    for kind in ("flat", "peaked", "ties"):
        for sampling in SETTINGS:
            row = row_of(random, size, kind)
            for at in random.random(40 if size < 10_000 else 15).tolist():
                num += 1
                if draw(row, sampling, at, isa) != sampler.draw(row, sampling, at):
                    different += 1
                    near = {sampler.draw(row, sampling, min(max(at + d, 0), 1 - 1e-9)) for d in (-1e-5, 1e-5)}
                    unexplained += draw(row, sampling, at, isa) not in near
    print(
        f"{isa}, vocabulary {size}: {different} of {num} draws differ, {unexplained} of them without a border"
    )
    assert unexplained == 0
    assert different <= num * (0.002 if size < 10_000 else 0.02)  # borders lie as close as tokens are many


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1, 15, 61, 300, 2_048, 9_000])
def test_cuts_at_their_ends(isa: str, size: int) -> None:
    random = np.random.default_rng(1)
    draws = [0.0, 0.3, 0.999, 1 - 2**-53]
    row = row_of(random, size, "flat")
    top = int(row.argmax())
    for sampling in (
        Sampling(top_k=1), Sampling(top_p=1e-9), Sampling(top_p=5e-324), Sampling(min_p=1.0),
        Sampling(temperature=1e-6), Sampling(temperature=1e-30), Sampling(temperature=0),
    ):  # fmt: skip
        assert {draw(row, sampling, at, isa) for at in draws} == {top}
    for wide in (Sampling(top_k=size), Sampling(top_k=1 << 20), Sampling(top_p=1 - 1e-16), Sampling(min_p=0)):
        assert [draw(row, wide, at, isa) for at in draws] == [draw(row, Sampling(), at, isa) for at in draws]
    ties = np.round(row)
    likeliest = np.flatnonzero(ties == ties.max()).tolist()
    drawn = {draw(ties, Sampling(temperature=1e-6), uniform(3, i), isa) for i in range(60 * len(likeliest))}
    assert drawn == set(likeliest)
    for cut in (Sampling(top_k=1), Sampling(top_p=1e-9), Sampling(temperature=0)):
        assert {draw(ties, cut, at, isa) for at in draws} == {likeliest[0]}
    assert {draw(ties, Sampling(min_p=1.0), uniform(4, i), isa) for i in range(300)} <= set(likeliest)


@pytest.mark.parametrize("isa", ISAS)
def test_equal_logits_are_cut_behind_the_lower_ids(isa: str) -> None:
    row = np.zeros(5_000, np.float32)
    almost = 1 - 2**-53
    for sampling, last in ((Sampling(top_k=700), 699), (Sampling(top_p=0.5), 2_499), (Sampling(), 4_999)):
        assert draw(row, sampling, almost, isa) == sampler.draw(row, sampling, almost) == last


@pytest.mark.parametrize("isa", ISAS)
def test_a_token_that_is_ruled_out_is_never_drawn(isa: str) -> None:
    row = np.full(700, -np.inf, np.float32)
    row[[4, 309]] = 0
    row[500] = -200
    for sampling in (Sampling(), Sampling(top_k=300), Sampling(top_p=0.99), Sampling(min_p=1e-30)):
        assert {draw(row, sampling, at, isa) for at in (0.0, 0.2, 0.7, 1 - 2**-53)} == {4, 309}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.nan])
@pytest.mark.parametrize("place", [0, 17, 699])
def test_rows_that_are_not_finite_give_no_token(isa: str, bad: float, place: int) -> None:
    row = row_of(np.random.default_rng(2), 700, "flat")
    row[place] = bad
    for sampling in (Sampling(temperature=0), Sampling(), Sampling(top_k=4, top_p=0.5)):
        assert draw(row, sampling, 0.5, isa) == -1
    assert draw(np.full(700, -np.inf, np.float32), Sampling(), 0.5, isa) == -1


def test_the_number_of_a_draw_is_that_of_python() -> None:
    for seed in (0, 1, -5, 2**63 - 1, 2**64 - 1, 2**80 + 3):
        for position in (0, 1, 77, 131_071):
            assert tuition_kernels.uniform(seed & SEED_MASK, position) == uniform(seed, position)


@pytest.mark.parametrize(
    "change", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_k": 0.5},
               {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": 2.0}, {"at": 1.0}, {"at": -0.1},
               {"row": np.empty(0, np.float32)}]
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(change: dict) -> None:
    good = {
        "row": np.zeros(3, np.float32),
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "at": 0,
    }
    with pytest.raises(ValueError, match="wanted"):
        tuition_kernels.draw(**(good | change))
