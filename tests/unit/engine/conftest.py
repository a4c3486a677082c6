"""Doubles for the engine's tests: a runner that notices wrong cache wiring, and a tokenizer of single
letters.
"""

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest

from tuition.core.errors import ModelError
from tuition.core.units import NS_PER_S
from tuition.engine.batch import StepBatch
from tuition.engine.draw_state import DrawState
from tuition.engine.pace import Pace
from tuition.engine.request import Request, Sampling
from tuition.engine.sampler import draw, uniform
from tuition.engine.settings import EngineSettings
from tuition.engine.speculation import Drafter
from tuition.engine.step import StepLoop
from tuition.engine.variants import LowRank, Variant
from tuition.spec.shape import ModelShape

VOCAB = 64
PERIOD = 7
STAMP = 1_000
"""Added to a token in the double's cache, times the number of the weights and variant that computed it."""


def tiny_shape(context_length: int = 256) -> ModelShape:
    return ModelShape(
        vocab_size=VOCAB, hidden_size=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_size=8,
        context_length=context_length,
    )  # fmt: skip


def logits_after(tokens: list[int], *, repetitive: bool = False) -> np.ndarray:
    """What the double's network says after these tokens, computed without any cache."""
    window = tokens[-PERIOD:] if repetitive else tokens
    digest = hashlib.blake2b(np.array(window, np.int64).tobytes(), digest_size=8).digest()
    row = np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(VOCAB) * 3
    if repetitive and len(tokens) >= PERIOD:
        row[tokens[-PERIOD] % STAMP] += 40 if int.from_bytes(digest, "little") % 5 else 0
    return row.astype(np.float32)


class HashRunner:
    """Logits are a hash of every token it finds through the block table, so a wrong block changes the reply.

    It writes tokens into its cache as a real runner writes keys, and reads the whole context back from there.
    """

    name = "hash"

    def __init__(
        self, num_blocks: int = 64, block_size: int = 4, context_length: int = 256, repetitive: bool = False
    ):
        self.shape = tiny_shape(context_length)
        self.num_blocks, self.block_size, self.repetitive = num_blocks, block_size, repetitive
        self.weights = 0
        self.variants: dict[str, int] = {}
        self.cache = np.full((num_blocks, block_size), -1, np.int64)
        self.poison: int | None = None
        self.nan_token: int | None = None
        self.num_steps = 0
        self.num_rows = 0
        self.most_rows = 0

    def forward(self, batch: StepBatch) -> np.ndarray:
        self.num_steps += 1
        self.num_rows += len(batch.token_ids)
        self.most_rows = max(self.most_rows, len(batch.token_ids))
        if self.poison is not None and self.poison in batch.token_ids:
            raise RuntimeError("poison in the step")
        assert batch.starts[-1] == len(batch.token_ids) == len(batch.positions)
        assert len({one.name for one in batch.variants}) == len(batch.variants), "a variant is torn apart"
        wanted = set(batch.logit_rows.tolist())
        assert sorted(wanted) == batch.logit_rows.tolist()
        found = []
        for s, (begin, end) in enumerate(itertools.pairwise(batch.starts.tolist())):
            table, start = batch.block_tables[s], int(batch.context_lengths[s])
            assert batch.positions[begin:end].tolist() == list(range(start, start + end - begin))
            for row in range(begin, end):
                p = int(batch.positions[row])
                block = table[p // self.block_size]
                assert block >= 0, "a row without a block"
                self.cache[block, p % self.block_size] = batch.token_ids[row] + STAMP * self.stamp(batch, row)
                if row in wanted:
                    seen = [
                        int(self.cache[table[q // self.block_size], q % self.block_size])
                        for q in range(p + 1)
                    ]
                    logits = logits_after(seen, repetitive=self.repetitive)
                    if self.nan_token is not None and seen[0] % STAMP == self.nan_token:
                        logits[3] = np.nan
                    found.append(logits)
        return np.stack(found) if found else np.empty((0, VOCAB), np.float32)

    def stamp(self, batch: StepBatch, row: int) -> int:
        """Number of the weights and the variant that compute this row."""
        names = [one.name for one in batch.variants if one.begin <= row < one.end]
        assert len(names) <= 1
        return self.weights + sum(self.variants[name] for name in names)

    def weights_digest(self) -> str:
        return f"{self.weights:064x}"

    def swap_weights(self, model) -> None:
        """`model`: a number below ten."""
        if not 0 <= model < 10:
            raise ModelError("weights", "are none", way_out="take others")
        self.weights = model

    def add_variant(self, name: str, variant: Variant) -> None:
        self.variants[name] = 10 * int(variant.changes[DOWN].up[0, 0])

    def remove_variant(self, name: str) -> None:
        del self.variants[name]

    def close(self) -> None:
        pass


class BurstingRunner(HashRunner):
    """The same, able to take several decode steps in one call, as `engine.batch.BurstRunner` says."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.in_a_hurry = False
        self.num_draws = 0
        self.bursts: list[int] = []
        """Steps of each burst so far."""

    def decode(self, batch: StepBatch, num_steps: int, draws, seconds) -> np.ndarray:
        assert len(batch.token_ids) == len(draws) == len(batch.context_lengths)
        assert all(state.takes_raw_rows for state in draws)
        chosen: list[np.ndarray] = []
        while len(chosen) < num_steps:
            at = batch.context_lengths + len(chosen)
            tokens = chosen[-1] if chosen else batch.token_ids
            logits = self.forward(replace(batch, token_ids=tokens, positions=at, context_lengths=at))
            if not np.isfinite(logits).all():
                break
            rows = zip(logits, draws, at.tolist(), strict=True)
            chosen.append(np.array([self._choose(*one) for one in rows], np.int32))
            if self.in_a_hurry or any(t in s.stop_array for t, s in zip(chosen[-1], draws, strict=True)):
                break
        self.bursts.append(len(chosen))
        return np.stack(chosen) if chosen else np.empty((0, len(draws)), np.int32)

    def _choose(self, row: np.ndarray, state: DrawState, at: int) -> int:
        """From the arrays alone, as a native runner does."""
        temperature, top_k, top_p, min_p = state.sampling_array[0].tolist()
        if temperature == 0:
            return int(row.argmax())
        sampling = Sampling(temperature=temperature, top_k=int(top_k), top_p=top_p, min_p=min_p)
        return self.draw(row, sampling, uniform(int(state.seed_array[0]), at + 1))

    def draw(self, row: np.ndarray, sampling: Sampling, at: float) -> int:
        self.num_draws += 1
        return draw(row, sampling, at)

    def hurry(self, on: bool) -> None:
        self.in_a_hurry = on


class LetterStream:
    def __init__(self, poison: int | None) -> None:
        self.poison = poison

    def push(self, token_id: int) -> str:
        if token_id == self.poison:
            raise ValueError("poison in the text")
        return chr(48 + token_id)

    def push_all(self, token_ids) -> str:
        return "".join(map(self.push, token_ids))

    def finish(self) -> str:
        return ""


class LetterTokenizer:
    """Token i is the letter chr(48 + i)."""

    def __init__(self) -> None:
        self.poison: int | None = None

    def stream(self, skip_specials: bool = True, after: object = ()) -> LetterStream:
        return LetterStream(self.poison)


class Clock:
    """A clock that the test moves; each look costs a microsecond."""

    def __init__(self) -> None:
        self.now = NS_PER_S

    def __call__(self) -> int:
        self.now += 1_000
        return self.now


def make_loop(
    *,
    num_blocks: int = 64,
    repetitive: bool = False,
    context_length: int = 256,
    bursts: bool = False,
    pace: Pace | None = None,
    drafter: Drafter | None = None,
    clock: "Clock | None" = None,
    **settings,
) -> StepLoop:
    engine = EngineSettings(
        **{"block_size": 4, "token_budget": 64, "max_batch": 8, "speculation": "off"} | settings
    )
    kind = BurstingRunner if bursts else HashRunner
    runner = kind(num_blocks, engine.block_size, context_length, repetitive)
    return StepLoop(runner, LetterTokenizer(), engine, clock=clock or Clock(), pace=pace, drafter=drafter)


def make_request(name: str, prompt, max_tokens: int = 8, **fields) -> Request:
    sampling = fields.pop("sampling", None) or Sampling(temperature=0.0)
    return Request(name, tuple(prompt), max_tokens, sampling, **fields)


def run_all(loop: StepLoop, check: bool = True) -> dict[str, list]:
    """Step until nothing is left; events by request."""
    events: dict[str, list] = {}
    for _ in range(20_000):
        if not loop.has_work:
            return events
        for event in loop.step()[0]:
            events.setdefault(event.request_id, []).append(event)
        if check:
            loop.check()
    raise AssertionError("the loop does not end")


def greedy(prompt, count: int, repetitive: bool = False, stamp: int = 0) -> list[int]:
    """What the double says greedily, computed without engine or cache.

    `stamp`: the number of the weights, and ten times that of the variant.
    """
    tokens = list(prompt)
    for _ in range(count):
        stamped = [token + STAMP * stamp for token in tokens]
        tokens.append(int(logits_after(stamped, repetitive=repetitive).argmax()))
    return tokens[len(prompt) :]


DOWN = "layers.0.mlp.down.weight"


def make_variant(number: int) -> Variant:
    """A variant that the double knows by its number."""
    return Variant({DOWN: LowRank(np.ones((1, 8), np.float32), np.full((8, 1), number, np.float32))})


class Kit:
    """Everything above in one fixture, since test folders are not packages."""

    VOCAB = VOCAB
    Clock, HashRunner, LetterTokenizer = Clock, HashRunner, LetterTokenizer
    loop = staticmethod(make_loop)
    request = staticmethod(make_request)
    run = staticmethod(run_all)
    greedy = staticmethod(greedy)
    variant = staticmethod(make_variant)
    DOWN = DOWN
    logits_after = staticmethod(logits_after)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit
