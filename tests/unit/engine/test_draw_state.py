"""The state of a reply's draws: it advances, rolls back, masks and draws, and a rule is added to it once."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.engine.draw_state import DrawState, NoTokenAllowedError
from tuition.engine.request import Request, Sampling, complete
from tuition.engine.sampler import draw, uniform
from tuition.engine.speculation import PromptLookup

DIGITS = range(10)
"""Token i is the letter chr(48 + i), so that these are the digits."""
RUN = 3
REPLY = 40


class Digits:
    """A mask with a memory: digits only, and no digit more than `RUN` times in a row."""

    rolled_back = 0
    """Tokens taken back from any of them."""

    def __init__(self, request: Request) -> None:
        self.reply: list[int] = []

    def allows(self, token_id: int) -> bool:
        return token_id in DIGITS and self.reply[-RUN:] != [token_id] * RUN

    def apply(self, row: np.ndarray) -> None:
        row[[token_id for token_id in range(len(row)) if not self.allows(token_id)]] = -np.inf

    def advance(self, token_id: int) -> None:
        assert self.allows(token_id), "the reply breaks its rule"
        self.reply.append(token_id)

    def roll_back(self, token_ids: Sequence[int]) -> None:
        assert self.reply[-len(token_ids) :] == list(token_ids)
        del self.reply[-len(token_ids) :]
        Digits.rolled_back += len(token_ids)


class RunsAway(Digits):
    """The planted fault: what is rolled back stays."""

    def advance(self, token_id: int) -> None:
        self.reply.append(token_id)

    def roll_back(self, token_ids: Sequence[int]) -> None:
        pass


class DraftsMany(PromptLookup):
    """Drafts at every chance: now what was said before, now tokens that the rule forbids."""

    def pays(self, num_decodes: int) -> bool:
        return True

    def draft(self, tokens: np.ndarray, most: int) -> np.ndarray:
        known = super().draft(tokens, most)
        drafts = known if len(known) else np.resize(tokens[-1:], most)
        return np.where(np.arange(len(drafts)) == len(tokens) % 5, 40, drafts).astype(np.int32)


def expected(kit, prompt: Sequence[int], sampling: Sampling, repetitive: bool) -> list[int]:
    """The reply by the rule alone: no engine, no cache, no state."""
    reply: list[int] = []
    for _ in range(REPLY):
        known = [*prompt, *reply]
        row = kit.logits_after(known, repetitive=repetitive).copy()
        for token_id in reply:
            row[token_id] -= sampling.frequency_penalty
        full = {reply[-1]} if reply and reply[-RUN:] == reply[-1:] * RUN else set()
        row[[t for t in range(len(row)) if t not in DIGITS or t in full]] = -np.inf
        greedy = sampling.temperature == 0
        at = uniform(sampling.seed or 0, len(known))
        reply.append(int(row.argmax()) if greedy else draw(row, sampling, at))
    return reply


REQUESTS = [
    ([1, 5, 9, 1, 5, 9, 1, 5], Sampling(temperature=0.0)),
    ([3, 3, 3, 3, 3, 3], Sampling(temperature=1.5, seed=4)),
    ([60, 2, 8, 60, 2, 8, 60], Sampling(temperature=1.0, top_p=0.9, seed=-5, frequency_penalty=0.25)),
]
WAYS = [
    {},
    {"bursts": True},
    {"speculation": "auto", "drafter": DraftsMany()},
    {"speculation": "auto", "drafter": DraftsMany(), "bursts": True},
    {"num_blocks": 24, "context_length": 90, "token_budget": 8},
    {"num_blocks": 24, "context_length": 90, "speculation": "auto", "drafter": DraftsMany(), "bursts": True},
]


@pytest.mark.parametrize("repetitive", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(way) or "plain")
def test_a_mask_is_kept_however_the_steps_are_taken(kit, way: dict, repetitive: bool) -> None:
    """In single steps, beside bursts, with drafts that it allows and forbids, and after preemption."""
    loop = kit.loop(**({"num_blocks": 120, "repetitive": repetitive} | way))
    before = Digits.rolled_back
    for i, (prompt, sampling) in enumerate(REQUESTS):
        loop.submit(kit.request(f"masked{i}", prompt, REPLY, sampling=sampling, rules=(Digits,)))
        loop.submit(kit.request(f"free{i}", prompt, REPLY))
    events = kit.run(loop)
    for i, (prompt, sampling) in enumerate(REQUESTS):
        done = complete(events[f"masked{i}"])
        assert done.error is None
        assert list(done.token_ids) == expected(kit, prompt, sampling, repetitive)
        assert list(complete(events[f"free{i}"]).token_ids) == kit.greedy(prompt, REPLY, repetitive)
    assert not way.get("bursts") or "drafter" in way or not loop.runner.bursts
    assert ("num_blocks" in way) == (loop.stats().num_preemptions > 0)
    assert ("drafter" in way) == (Digits.rolled_back > before)


def test_bursts_return_when_the_masked_reply_has_ended(kit) -> None:
    loop = kit.loop(bursts=True)
    loop.submit(kit.request("masked", range(4), 10, rules=(Digits,)))
    loop.submit(kit.request("free", range(4), REPLY))
    kit.run(loop)
    assert sum(loop.runner.bursts) == REPLY - 10


def test_a_rule_that_does_not_roll_back_is_noticed(kit) -> None:
    """The control: without the rollback the replies with drafts would be other ones."""
    loop = kit.loop(repetitive=True, speculation="auto", drafter=DraftsMany())
    for i, (prompt, sampling) in enumerate(REQUESTS):
        loop.submit(kit.request(f"r{i}", prompt, REPLY, sampling=sampling, rules=(RunsAway,)))
    events = kit.run(loop)
    assert any(
        list(complete(events[f"r{i}"]).token_ids) != expected(kit, prompt, sampling, True)
        for i, (prompt, sampling) in enumerate(REQUESTS)
    )


class ForbidsAll(Digits):
    def apply(self, row: np.ndarray) -> None:
        row[:] = -np.inf


class Raises(Digits):
    def allows(self, token_id: int) -> bool:
        raise RuntimeError("a bug in a rule")


@pytest.mark.parametrize(("rule", "message"), [(ForbidsAll, "allow no token"), (Raises, "a bug in a rule")])
@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), Sampling(seed=1)])
def test_a_rule_that_fails_ends_its_request_alone(kit, rule: type, message: str, sampling: Sampling) -> None:
    loop = kit.loop(speculation="auto", drafter=DraftsMany())
    loop.submit(kit.request("bad", range(5), 10, sampling=sampling, rules=(rule,)))
    loop.submit(kit.request("good", range(5), 10))
    events = kit.run(loop)
    bad = complete(events["bad"])
    assert (bad.finish_reason, message in (bad.error or "")) == ("error", True)
    assert list(complete(events["good"]).token_ids) == kit.greedy(range(5), 10)


def test_poison_in_a_masked_row_is_still_called_poison() -> None:
    state = DrawState(Request("r", (1,), 4, Sampling(temperature=0), rules=(Digits,)))
    row = np.zeros(64, np.float32)
    row[3] = np.nan
    with pytest.raises(ValueError, match="largest logit"):
        state.draw(row, 0)
    with pytest.raises(NoTokenAllowedError):
        DrawState(Request("r", (1,), 4, rules=(ForbidsAll,))).draw(np.zeros(64, np.float32), 0)


@settings(deadline=None, max_examples=200)
@given(
    prompt=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    moves=st.lists(st.one_of(st.integers(0, 9), st.integers(-5, -1)), max_size=40),
)
def test_penalties_after_a_rollback_are_those_of_the_tokens_that_are_left(
    prompt: list[int], moves: list[int]
) -> None:
    """A move is a token to add, or minus the number of tokens to take back."""
    sampling = Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.25)
    request = Request("r", tuple(prompt), 8, sampling)
    state, reply = DrawState(request), list[int]()
    for move in moves:
        if move >= 0:
            state.advance((move,))
            reply.append(move)
        else:
            count = min(-move, len(reply))
            state.roll_back(count)
            del reply[len(reply) - count :]
    fresh = DrawState(request)
    fresh.advance(reply)
    row = np.random.default_rng(0).standard_normal(10).astype(np.float32)
    np.testing.assert_array_equal(state.mask(row), fresh.mask(row))
