"""Random traffic against the scheduler: no block leaks, every reply is right, and planted faults are found.

The double's logits are a hash of the tokens it finds through the block table, so a wrong block, a block
shared by mistake or a stale one changes a reply.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tuition.core.records import SequenceWork
from tuition.engine.blocks import CacheIntegrityError, root_digest
from tuition.engine.request import Sampling, TokenEvent, complete
from tuition.engine.scheduler import Scheduler
from tuition.engine.sequence import Sequence
from tuition.engine.step import StepLoop

POISON = 61
WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""A trace is one seed: there is nothing to shrink, and trying takes minutes."""


class Trace:
    """One run of random traffic: arrivals, cancels and poison; a small cache, so that it preempts."""

    def __init__(self, kit, seed: int, *, variants: bool = False, swaps: bool = False, **chosen) -> None:
        self.kit, self.random = kit, np.random.default_rng(seed)
        self.variants = {"a": kit.variant(1), "b": kit.variant(2)} if variants else {}
        self.swaps = swaps
        self.weights: dict[str, list[tuple[int, int]]] = {}
        """Of each request: from which token of its reply on it met which weights."""
        self.num_interrupted = 0
        self.loop: StepLoop = kit.loop(**chosen)
        for name, variant in self.variants.items():
            self.loop.add_variant(name, variant)
        self.loop.runner.poison = POISON
        self.events: dict[str, list[TokenEvent]] = {}
        self.requests: dict = {}
        self.cancelled: set[str] = set()
        self.billed: dict[str, int] = {}
        self.wasted: dict[str, int] = {}
        self.prefixes = [self.random.integers(0, 60, 24).tolist() for _ in range(3)]

    def arrive(self) -> None:
        random = self.random
        prefix = self.prefixes[random.integers(3)][: random.integers(25)]
        if random.random() < 0.3:  # the same blocks behind another beginning are other blocks
            prefix = [*random.integers(0, 60, 4).tolist(), *prefix]
        prompt = [*prefix, *random.integers(0, 60, random.integers(1, 20)).tolist()]
        if random.random() < 0.02:
            prompt[random.integers(len(prompt))] = POISON
        name = f"r{len(self.requests)}"
        request = self.kit.request(
            name, prompt, int(random.integers(0, 24)),
            sampling=Sampling(temperature=float(random.choice([0.0, 0.9])), seed=int(random.integers(9))),
            cache_salt=str(random.integers(2)), priority=str(random.choice(["interactive", "batch"])),
            prompt_logprobs=2 if random.random() < 0.1 else None,
            variant=random.choice([None, *self.variants]) if self.variants else None,
        )  # fmt: skip
        self.requests[name] = request
        self.weights[name] = [(0, self.loop.runner.weights)]
        self.loop.submit(request)

    def live(self) -> list[str]:
        """Requests without an end."""
        ended = {name for name, events in self.events.items() if events[-1].finish_reason}
        return sorted(set(self.requests) - ended - self.cancelled)

    def swap(self) -> None:
        self.loop.swap_weights((self.loop.runner.weights + 1) % 10)
        self.loop.check()
        for name in self.live():
            count = sum(len(event.token_ids) for event in self.events.get(name, ()))
            self.weights[name].append((count, self.loop.runner.weights))
            self.num_interrupted += count > 0

    def cancel(self) -> None:
        live = self.live()
        if live:
            name = live[self.random.integers(len(live))]
            free = self.loop.stats().num_free_blocks
            assert self.loop.cancel(name)
            assert self.loop.stats().num_free_blocks >= free
            self.cancelled.add(name)

    def step(self) -> None:
        events, trace = self.loop.step()
        for event in events:
            mine = self.events.setdefault(event.request_id, [])
            assert not mine or mine[-1].finish_reason is None, "an event after the last"
            mine.append(event)
        for work in trace.work if trace else ():
            self._bill(work)
        self.loop.check()
        holders: dict[int, tuple[str, str | None]] = {}
        for sequence in self.loop.scheduler.running:
            for block in sequence.blocks:
                key = (sequence.request.cache_salt, sequence.request.variant)
                assert holders.setdefault(block, key) == key, "a block shared across salts or variants"

    def _bill(self, work: SequenceWork) -> None:
        assert 0 <= work.num_wasted <= work.num_tokens
        self.billed[work.request_id] = self.billed.get(work.request_id, 0) + work.num_tokens
        self.wasted[work.request_id] = self.wasted.get(work.request_id, 0) + work.num_wasted

    def run(self, steps: int) -> None:
        for _ in range(steps):
            load = self.loop.stats().num_waiting
            if self.random.random() < (0.6 if load < 12 else 0.05):
                self.arrive()
            if self.random.random() < 0.06:
                self.cancel()
            if self.swaps and self.random.random() < 0.05:
                self.swap()
            if self.loop.has_work:
                self.step()
        for _ in range(4_000):
            if not self.loop.has_work:
                return
            self.step()
        raise AssertionError("the loop does not end")

    def judge(self) -> None:
        stats = self.loop.stats()
        assert stats.num_free_blocks == stats.num_blocks, "leaked blocks"
        assert set(self.events) == set(self.requests), "a request without an end"
        alone = self.kit.loop(num_blocks=64, prefix_cache="off", repetitive=self.loop.runner.repetitive)
        for name, variant in self.variants.items():
            alone.add_variant(name, variant)
        for name, events in self.events.items():
            self._judge_one(alone, self.requests[name], events)

    def _judge_one(self, alone: StepLoop, request, events: list[TokenEvent]) -> None:
        done = complete(events)
        assert done.num_generated == len(done.token_ids)
        if POISON in request.prompt:
            assert done.finish_reason in ("error", "cancelled")
            return
        if done.finish_reason == "error":
            assert POISON in [*self._alone(alone, request)], done.error  # it chose the poison itself
            return
        want = self._alone(alone, request)
        assert list(done.token_ids) == want[: len(done.token_ids)], "a neighbour or the cache changed a reply"
        if done.finish_reason != "cancelled":
            assert len(done.token_ids) == request.max_tokens
            useful = self.billed[request.id] - self.wasted[request.id] + done.num_cached_tokens
            assert useful == len(request.prompt) + max(0, request.max_tokens - 1)
            if done.prompt_logprobs is not None:
                assert len(done.prompt_logprobs) == len(request.prompt)

    def _alone(self, loop: StepLoop, request) -> list[int]:
        """The reply of the request alone, which meets other weights after the same tokens."""
        marks, tokens = self.weights[request.id].copy(), list[int]()
        loop.submit(request)
        while loop.has_work:
            while marks and marks[0][0] <= len(tokens):
                loop.swap_weights(marks.pop(0)[1])
            tokens += [token for event in loop.step()[0] for token in event.token_ids]
        return tokens


SETTINGS = st.fixed_dictionaries({
    "num_blocks": st.sampled_from([18, 24, 40]),
    "token_budget": st.sampled_from([6, 16, 64]),
    "max_batch": st.sampled_from([1, 3, 6]),
    "speculation": st.sampled_from(["off", "auto"]),
    "prefix_cache": st.sampled_from(["on", "off"]),
    "repetitive": st.booleans(),
    "bursts": st.booleans(),
    "variants": st.booleans(),
    "swaps": st.booleans(),
    "context_length": st.just(70),
})  # fmt: skip


def traffic(kit, seed: int, steps: int, chosen: dict) -> None:
    trace = Trace(kit, seed, **chosen)
    trace.run(steps)
    trace.judge()


@settings(
    deadline=None,
    max_examples=10,
    derandomize=True,
    phases=WITHOUT_SHRINKING,
    suppress_health_check=list(HealthCheck),
)
@given(seed=st.integers(0, 2**32), chosen=SETTINGS)
def test_random_traffic_leaks_nothing_and_changes_no_reply(kit, seed: int, chosen: dict) -> None:
    traffic(kit, seed, 50, chosen)


@pytest.mark.slow
@settings(deadline=None, max_examples=100, phases=WITHOUT_SHRINKING, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), chosen=SETTINGS)
def test_ten_thousand_steps_of_random_traffic(kit, seed: int, chosen: dict) -> None:
    traffic(kit, seed, 100, chosen)


def test_the_traffic_of_these_tests_preempts_shares_and_guesses(kit) -> None:
    """Otherwise they would prove nothing."""
    chosen = {"num_blocks": 18, "token_budget": 16, "max_batch": 6, "context_length": 70, "repetitive": True}
    trace = Trace(kit, 4, speculation="auto", bursts=True, **chosen)
    trace.run(400)
    trace.judge()
    assert trace.loop.stats().num_preemptions > 5
    assert sum(complete(events).num_cached_tokens for events in trace.events.values()) > 50
    assert sum(trace.wasted.values()) > 20
    assert len(trace.cancelled) > 5
    assert max(trace.loop.runner.bursts) > 5
    print(f"traces: {trace.loop.stats().num_preemptions} preemptions, 0 leaked blocks, 0 integrity errors")


def test_the_traffic_with_swaps_interrupts_replies(kit) -> None:
    """Otherwise it would prove nothing."""
    chosen = {"num_blocks": 18, "token_budget": 16, "max_batch": 6, "context_length": 70, "repetitive": True}
    trace = Trace(kit, 4, speculation="auto", bursts=True, variants=True, swaps=True, **chosen)
    trace.run(200)
    trace.judge()
    assert trace.num_interrupted > 10
    assert trace.loop.stats().num_preemptions > 5


def test_a_prompt_preempted_and_admitted_again_in_one_plan_is_computed_once(kit) -> None:
    chosen = {"num_blocks": 40, "token_budget": 16, "max_batch": 6, "context_length": 70}
    traffic(kit, 21_382, 100, chosen | {"speculation": "off", "prefix_cache": "on"})


def several_traces(kit, chosen: dict) -> None:
    for seed in range(6):
        traffic(kit, seed, 60, chosen)


def _leak_on_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Scheduler.finish

    def leaky(self: Scheduler, sequence: Sequence) -> None:
        if len(sequence.blocks) > 2:
            sequence.blocks.pop()
        finish(self, sequence)

    monkeypatch.setattr(Scheduler, "finish", leaky)


def _names_without_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuition.engine.sequence.chain_digest", lambda parent, content: content)


def _names_without_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuition.engine.scheduler.root_digest", lambda salt, variant: root_digest(salt))


def _keep_the_cache_at_a_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    restart = Scheduler.restart

    def keeps(self: Scheduler) -> None:
        pool = self.pool
        restart(self)
        self.pool = pool

    monkeypatch.setattr(Scheduler, "restart", keeps)


def _publish_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Scheduler.commit

    def hasty(self: Scheduler, sequence: Sequence, *rest) -> SequenceWork:
        work = commit(self, sequence, *rest)
        index = sequence.num_published
        if index < len(sequence.blocks) and sequence.num_tokens >= (index + 1) * self.pool.block_size:
            names = sequence.name_blocks(index + 1, self.pool.block_size)
            self.pool.publish(sequence.blocks[index], names[index])
        return work

    monkeypatch.setattr(Scheduler, "commit", hasty)


def _keep_rejected_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Scheduler.commit
    monkeypatch.setattr(
        Scheduler,
        "commit",
        lambda self, sequence, num, *rest: commit(self, sequence, min(num + 1, sequence.rows), *rest),
    )


FAULTS = [
    _leak_on_finish, _names_without_salt, _names_without_variant, _keep_the_cache_at_a_swap,
    _publish_too_early, _keep_rejected_drafts,
]  # fmt: skip


@pytest.mark.parametrize("plant", FAULTS)
def test_a_planted_fault_is_found(kit, plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    variants = plant is _names_without_variant  # with them fewer prompts share blocks, and others would hide
    swaps = plant is _keep_the_cache_at_a_swap
    chosen = {"num_blocks": 40, "token_budget": 6, "max_batch": 6, "context_length": 70, "repetitive": True}
    with pytest.raises((AssertionError, CacheIntegrityError, IndexError)):
        several_traces(
            kit, {"speculation": "auto", "bursts": True, "variants": variants, "swaps": swaps, **chosen}
        )


def test_keys_never_share_a_block(kit) -> None:
    """S9: the same prompt under two salts, while both are live and after."""
    loop = kit.loop(num_blocks=64, context_length=128)
    prompt = list(range(40))
    for i in range(8):
        loop.submit(kit.request(f"r{i}", prompt, 20, cache_salt="ab"[i % 2]))
    mixed = {"a": set(), "b": set()}
    while loop.has_work:
        for sequence in loop.scheduler.running:
            mixed[sequence.request.cache_salt] |= set(sequence.names[1:])
        held = [(s.request.cache_salt, set(s.blocks)) for s in loop.scheduler.running]
        for salt, blocks in held:
            assert not any(blocks & others for other, others in held if other != salt)
        loop.step()
    assert mixed["a"]
    assert not mixed["a"] & mixed["b"]


def test_an_interactive_request_does_not_wait_for_batch_ones(kit) -> None:
    loop = kit.loop(num_blocks=40, max_batch=4, token_budget=64, context_length=128)
    for i in range(8):
        loop.submit(kit.request(f"b{i}", [i] * 20, 60, priority="batch"))
    for _ in range(3):
        loop.step()
    loop.submit(kit.request("now", range(30), 5))
    events = loop.step()[0]
    assert "now" in {event.request_id for event in events}
    done = {name: complete(found) for name, found in kit.run(loop).items() if name != "now"}
    assert all(reply.finish_reason == "length" for reply in done.values())


def test_one_key_does_not_starve_another(kit) -> None:
    loop = kit.loop(num_blocks=64, max_batch=2)
    for i in range(40):
        loop.submit(kit.request(f"flood{i}", [i], 4, cache_salt="flood"))
    loop.submit(kit.request("other", [50], 4, cache_salt="other"))
    order = []
    while loop.has_work:
        order += [event.request_id for event in loop.step()[0] if event.finish_reason]
    assert order.index("other") < 5


def test_a_short_prompt_does_not_wait_for_a_long_one(kit) -> None:
    loop = kit.loop(num_blocks=64, token_budget=16, max_batch=4, context_length=240)
    loop.submit(kit.request("long", [1] * 200, 2))
    loop.step()
    loop.submit(kit.request("short", [2] * 6, 2))
    order = []
    while loop.has_work:
        order += [event.request_id for event in loop.step()[0] if event.finish_reason]
    assert order == ["short", "long"]
