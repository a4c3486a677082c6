"""The choice of a token: cuts, penalties, draws, log-probabilities; each against a plain rule written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.engine.draw_state import DrawState
from tuition.engine.request import Request, Sampling
from tuition.engine.sampler import (
    PoisonedLogitsError,
    argmax,
    draw,
    most_likely,
    token_logprob,
    uniform,
)


def state_of(sampling: Sampling, prompt: tuple[int, ...] = (0,), **fields) -> DrawState:
    return DrawState(Request("r", prompt, 8, sampling, **fields))


def row_of(seed: int, size: int = 200, levels: int | None = None) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(size).astype(np.float32) * 2
    return row if levels is None else np.round(row * levels) / levels  # few levels: many ties


def plain_distribution(row: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The rule by full sorting: probabilities after temperature, top-k, top-p, min-p, not normalised."""
    scaled = row.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    order = np.lexsort((np.arange(len(row)), -row))
    keep = np.zeros(len(row), bool)
    count = sampling.top_k or len(row)
    ranked = order[:count]
    if sampling.top_p < 1:
        sums = np.cumsum(weights[ranked])
        ranked = ranked[: int(np.searchsorted(sums, sampling.top_p * sums[-1] * (1 - 1e-12))) + 1]
    keep[ranked] = True
    keep &= weights >= sampling.min_p * weights.max()
    return np.where(keep, weights, 0)


def test_the_likeliest_token_wins_and_ties_go_to_the_lower_id() -> None:
    row = np.array([1, 3, 2, 3], np.float32)
    assert argmax(row) == 1
    assert state_of(Sampling(temperature=0)).draw(row, 0) == 1
    assert most_likely(row, 3) == [1, 3, 2]
    assert most_likely(np.zeros(50, np.float32), 2) == [0, 1]
    assert most_likely(row, 20) == [1, 3, 2, 0]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0.2, 2),
        top_k=st.sampled_from([0, 1, 2, 7, 50, 500]),
        top_p=st.floats(0.01, 1),
        min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    ),
    levels=st.sampled_from([None, 1]),
    size=st.sampled_from([1, 200, 700, 9_000]),
    at=st.floats(0, 1, exclude_max=True),
)
def test_the_token_under_the_draw_is_kept_by_every_cut(
    seed: int, sampling: Sampling, levels: int | None, size: int, at: float
) -> None:
    """Also of rows so long that spans and bins are summed up instead of single weights."""
    row = row_of(seed, size, levels)
    weights = plain_distribution(row, sampling)
    token_id = draw(row, sampling, at)
    sums = np.cumsum(weights) / weights.sum()
    low = sums[token_id - 1] if token_id else 0.0
    slack = 1e-4  # float32 weights; a token at the very edge of a cut may fall on either side
    assert low - slack <= at <= sums[token_id] + slack


def test_draws_follow_the_distribution() -> None:
    row, sampling = row_of(3, 40), Sampling(temperature=1.3, top_p=0.9)
    want = plain_distribution(row, sampling)
    want /= want.sum()
    num = 20_000
    got = np.bincount([draw(row, sampling, uniform(11, i)) for i in range(num)], minlength=40) / num
    assert np.abs(got - want).max() < 5 * np.sqrt(0.25 / num)  # five standard errors of a share
    assert not got[want == 0].any()


def test_the_draw_is_a_function_of_seed_and_position() -> None:
    draws = np.array([[uniform(seed, position) for position in range(500)] for seed in range(60)])
    assert len(np.unique(draws)) == draws.size
    assert (draws >= 0).all()
    assert (draws < 1).all()
    assert abs(draws.mean() - 0.5) < 5 / np.sqrt(12 * draws.size)
    assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 0.25
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.7
    assert uniform(-5, 3) == uniform(-5, 3)


def test_known_values_of_the_draw_never_change() -> None:
    """A reply made with a seed can be made again with the next release."""
    assert [uniform(0, 0), uniform(1, 0), uniform(0, 1)] == [
        0.6524484863740322,
        0.36818951565166946,
        0.7012121095215252,
    ]


def test_cold_draws_are_greedy() -> None:
    for temperature in (1e-3, 1e-30):
        sampling = Sampling(temperature=temperature)
        assert all(draw(row_of(i), sampling, uniform(1, i)) == row_of(i).argmax() for i in range(50))


def test_penalties_count_prompt_and_reply_as_documented() -> None:
    sampling = Sampling(temperature=0, repetition_penalty=2, presence_penalty=0.5, frequency_penalty=0.25)
    state = state_of(sampling, (1, 1, 2))
    state.advance((3, 3, 4))
    row = np.array([0.0, 4, -4, 6, -6, 1], np.float32)
    want = [0, 2, -8, 3 - 0.5 - 2 * 0.25, -12 - 0.5 - 0.25, 1]
    untouched = row.copy()
    np.testing.assert_allclose(state.mask(row), want)
    state.draw(row, 0)
    np.testing.assert_array_equal(row, untouched)


def test_counting_grows_with_the_reply() -> None:
    sampling = Sampling(temperature=0, presence_penalty=1)
    state = state_of(sampling, tuple(range(10)))
    row = np.zeros(1000, np.float32)
    for token_id in range(900):
        assert state.draw(row, token_id) == token_id
        state.advance((token_id,))


def test_bias_moves_the_choice_and_equal_ids_add_up() -> None:
    row = np.array([1, 2, 3], np.float32)
    assert state_of(Sampling(temperature=0, logit_bias=((0, 5.0),))).draw(row, 0) == 0
    assert state_of(Sampling(temperature=0, logit_bias=((0, 1.5), (0, 1.0)))).draw(row, 0) == 0
    assert state_of(Sampling(temperature=0, logit_bias=((2, -100.0),))).draw(row, 0) == 1


@given(seed=st.integers(0, 2**32), num_top=st.integers(0, 20))
@settings(deadline=None, max_examples=60)
def test_logprobs_are_those_of_the_raw_distribution(seed: int, num_top: int) -> None:
    row = row_of(seed, levels=2)
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    score = token_logprob(row, 17, num_top)
    assert score.logprob == pytest.approx(exact[17], abs=1e-5)  # float32 exponentials
    assert len(score.top) == num_top
    assert [token for token, _ in score.top] == np.lexsort((np.arange(200), -row))[:num_top].tolist()
    if num_top:
        assert score.top[0][0] == argmax(row)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    row = row_of(1)
    row[5] = bad
    for sampling in (Sampling(temperature=0), Sampling(seed=1), Sampling(seed=1, top_k=4)):
        with pytest.raises(PoisonedLogitsError):
            state_of(sampling).draw(row, 0)


def test_a_token_that_is_ruled_out_is_never_drawn() -> None:
    row = np.full(30, -np.inf, np.float32)
    row[[4, 9]] = 0
    drawn = {draw(row, Sampling(), uniform(2, i)) for i in range(200)}
    assert drawn == {4, 9}
