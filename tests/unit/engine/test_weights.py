"""Weights that are swapped between two steps, and variants of them that requests name."""

import threading

import numpy as np
import pytest

from tuition.core.errors import BusyError, ModelError, NotFoundError, RequestError, SettingsError, ShapeError
from tuition.engine.request import Sampling, complete
from tuition.engine.service import EngineService
from tuition.engine.step import StepLoop
from tuition.engine.variants import LowRank, Variant

REPLY = 30


def ids(events) -> list[int]:
    return list(complete(events).token_ids)


# ---- swaps


WAYS = [
    {},
    {"bursts": True},
    {"repetitive": True, "speculation": "auto"},
    {"num_blocks": 30, "context_length": 90, "token_budget": 16},
]


@pytest.mark.parametrize("settings", WAYS, ids=["single steps", "bursts", "drafts", "preemption"])
def test_replies_go_on_with_the_new_weights_from_the_tokens_that_they_have(kit, settings: dict) -> None:
    repetitive = settings.get("repetitive", False)
    loop, told = kit.loop(**settings), dict[str, list]()
    prompts = {f"r{i}": [(7 * i + j) % 60 for j in range(9 + i)] for i in range(6)}
    for name, prompt in prompts.items():
        loop.submit(kit.request(name, prompt, REPLY))
    loop.hurry(True)
    for _ in range(6):
        for event in loop.step()[0]:
            told.setdefault(event.request_id, []).append(event)
        loop.check()
    loop.hurry(False)
    before = {name: [token for event in events for token in event.token_ids] for name, events in told.items()}
    trace = loop.swap_weights(3)
    assert (trace.kind, trace.work) == ("load", ())
    assert loop.runner.weights_digest() == f"{3:064x}"
    loop.check()
    for name, events in kit.run(loop).items():
        told.setdefault(name, []).extend(events)
    assert any(0 < len(tokens) < REPLY for tokens in before.values())
    for name, prompt in prompts.items():
        kept = before.get(name, [])
        assert kept == kit.greedy(prompt, len(kept), repetitive)
        want = kept + kit.greedy([*prompt, *kept], REPLY - len(kept), repetitive, stamp=3)
        assert ids(told[name]) == want
        assert complete(told[name]).finish_reason == "length"
    assert loop.stats().num_free_blocks == loop.stats().num_blocks


def test_a_prompt_that_was_cached_is_computed_again(kit) -> None:
    loop = kit.loop()
    for name, weights in (("first", 0), ("second", 4), ("third", 4)):
        if weights != loop.runner.weights:
            loop.swap_weights(weights)
        loop.submit(kit.request(name, range(22)))
        done = complete(kit.run(loop)[name])
        assert list(done.token_ids) == kit.greedy(range(22), 8, stamp=weights)
        assert done.num_cached_tokens == (20 if name == "third" else 0)


def test_what_is_computed_again_is_waste_and_nothing_is_billed_twice(kit) -> None:
    loop = kit.loop()
    loop.submit(kit.request("r", range(10), 8))
    work = [one for _ in range(3) for one in (loop.step()[1].work)]
    loop.swap_weights(1)
    while loop.has_work:
        work += loop.step()[1].work
    assert sum(one.num_tokens - one.num_wasted for one in work) == 10 + 8 - 1
    assert sum(one.num_wasted for one in work) == 10 + 2


def test_a_prompt_has_the_scores_of_one_model(kit) -> None:
    prompt = [(5 * i) % 60 for i in range(100)]
    loop = kit.loop(token_budget=32)
    loop.submit(kit.request("score", prompt, 3, prompt_logprobs=1))
    loop.step()
    loop.swap_weights(2)
    done = complete(kit.run(loop)["score"])
    assert [score.token_id for score in done.prompt_logprobs or ()] == prompt
    for place in range(1, len(prompt)):
        row = kit.logits_after([token + 2_000 for token in prompt[:place]]).astype(np.float64)
        want = row[prompt[place]] - np.log(np.exp(row).sum())
        assert (done.prompt_logprobs or ())[place].logprob == pytest.approx(want, abs=1e-5)  # float32


def test_weights_that_are_refused_change_nothing(kit) -> None:
    loop = kit.loop()
    loop.submit(kit.request("r", range(9), REPLY))
    events = [event for _ in range(4) for event in loop.step()[0]]
    rows = loop.runner.num_rows
    with pytest.raises(ModelError):
        loop.swap_weights(99)
    events += kit.run(loop)["r"]
    assert ids(events) == kit.greedy(range(9), REPLY)
    assert loop.runner.num_rows - rows == REPLY - 4


def test_a_service_swaps_between_two_steps_and_drops_no_request(kit) -> None:
    loop, traces = kit.loop(bursts=True), []
    begun = threading.Event()
    decode = loop.runner.decode

    def slowly(*arguments):
        begun.set()
        loop.runner.in_a_hurry = True  # one step at a time
        return decode(*arguments)

    loop.runner.decode = slowly
    service = EngineService(loop, traces.append)
    try:
        streams = [service.submit(kit.request(f"r{i}", range(i, i + 6), 200)) for i in range(3)]
        assert begun.wait(30)
        service.swap_weights(5, timeout_s=30)
        assert loop.runner.weights_digest() == f"{5:064x}"
        for i, stream in enumerate(streams):
            done = stream.result()
            assert (done.finish_reason, done.num_generated) == ("length", 200)
            first = kit.greedy(range(i, i + 6), 200)
            same = [a == b for a, b in zip(done.token_ids, first, strict=True)]
            kept = [*same, False].index(False)
            rest = kit.greedy([*range(i, i + 6), *done.token_ids[:kept]], 200 - kept, stamp=5)
            assert list(done.token_ids[kept:]) == rest
        with pytest.raises(ModelError):
            service.swap_weights(-1, timeout_s=30)
        assert [trace.kind for trace in traces].count("load") == 1
        assert service.stats().num_integrity_errors == 0
    finally:
        service.stop()
    with pytest.raises(BusyError):
        service.swap_weights(1, timeout_s=30)


def test_a_loop_that_fails_tells_whoever_waits_for_a_swap(kit) -> None:
    """It fails over a message that came before the swap, in the same batch of news."""
    loop, begun, go_on = kit.loop(), threading.Event(), threading.Event()
    forward = loop.runner.forward

    def waits(batch):
        begun.set()
        assert go_on.wait(30)
        return forward(batch)

    def broken(*arguments):
        raise ZeroDivisionError

    loop.runner.forward = waits
    service = EngineService(loop)
    stream = service.submit(kit.request("r", range(4), 4))
    assert begun.wait(30)
    loop.scheduler.find = broken
    stream.cancel()
    release = threading.Timer(0.2, go_on.set)  # after the swap was asked for
    release.start()
    with pytest.raises(BusyError):
        service.swap_weights(1, timeout_s=30)
    assert stream.result().finish_reason == "error"
    service.stop()


# ---- variants


@pytest.mark.parametrize("settings", WAYS, ids=["single steps", "bursts", "drafts", "preemption"])
def test_mixed_variants_in_one_step_give_each_its_own_reply(kit, settings: dict) -> None:
    repetitive = settings.get("repetitive", False)
    loop = kit.loop(**settings)
    stamps = {None: 0, "one": 10, "two": 20}
    loop.add_variant("one", kit.variant(1))
    loop.add_variant("two", kit.variant(2))
    asked = {f"r{i}": (variant, range(i // 6, i // 6 + 9)) for i, variant in enumerate([*stamps] * 3)}
    for name, (variant, prompt) in asked.items():
        loop.submit(kit.request(name, prompt, REPLY, variant=variant))
    events = kit.run(loop)
    for name, (variant, prompt) in asked.items():
        assert ids(events[name]) == kit.greedy(prompt, REPLY, repetitive, stamp=stamps[variant])


def test_the_prefix_cache_knows_variants_apart_by_their_content(kit) -> None:
    loop = kit.loop()
    loop.add_variant("v", kit.variant(1))

    def cached(variant: str | None) -> int:
        loop.submit(kit.request("r", range(22), variant=variant))
        done = complete(kit.run(loop)["r"])
        stamp = 0 if variant is None else loop.runner.variants[variant]
        assert list(done.token_ids) == kit.greedy(range(22), 8, stamp=stamp)
        return done.num_cached_tokens

    assert [cached(None), cached("v"), cached(None), cached("v")] == [0, 0, 20, 20]
    loop.remove_variant("v")
    loop.add_variant("v", kit.variant(2))  # the same name and other weights
    assert cached("v") == 0
    loop.add_variant("w", kit.variant(2))  # another name and the same weights
    assert cached("w") == 20


def test_an_unknown_variant_is_refused_with_the_names_that_are_known(kit) -> None:
    loop = kit.loop()
    with pytest.raises(RequestError, match="variant: got 'x', wanted one of: none"):
        loop.submit(kit.request("r", range(4), variant="x"))
    loop.add_variant("known", kit.variant(1))
    with pytest.raises(RequestError, match="variant: got 'x', wanted one of: known"):
        loop.validate(kit.request("r", range(4), variant="x"))


def test_a_variant_in_use_is_not_removed(kit) -> None:
    loop = kit.loop()
    loop.add_variant("v", kit.variant(1))
    loop.submit(kit.request("r", range(4), variant="v"))
    with pytest.raises(BusyError, match="use the variant 'v'"):
        loop.remove_variant("v")
    kit.run(loop)
    loop.remove_variant("v")
    with pytest.raises(NotFoundError):
        loop.remove_variant("v")


def test_a_variant_must_fit_the_model_and_have_a_new_name(kit) -> None:
    loop, down, up = kit.loop(), np.ones((2, 8), np.float32), np.ones((8, 2), np.float32)
    for name, change in (
        ("layers.7.mlp.down.weight", LowRank(down, up)),
        ("embedding.weight", LowRank(down, up)),
        (kit.DOWN, LowRank(down, up[:, :1])),
        (kit.DOWN, LowRank(down[:0], up[:, :0])),
        (kit.DOWN, LowRank(down * np.float32("nan"), up)),
    ):
        with pytest.raises(ShapeError):
            loop.add_variant("v", Variant({name: change}))
    loop.add_variant("v", kit.variant(1))
    for name in ("v", ""):
        with pytest.raises(SettingsError, match="wanted a new name"):
            loop.add_variant(name, kit.variant(2))


def test_a_runner_without_variants_refuses_them(kit) -> None:
    runner = kit.HashRunner()

    class Plain:
        """The same runner, of which only the methods of a `Runner` are seen."""

        name, shape = "plain", runner.shape
        num_blocks, block_size = runner.num_blocks, runner.block_size
        forward = staticmethod(runner.forward)

    loop = StepLoop(Plain(), kit.LetterTokenizer())  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="plain computes no variants"):
        loop.add_variant("v", kit.variant(1))


def test_a_request_that_fails_among_variants_fails_alone(kit) -> None:
    loop = kit.loop()
    loop.add_variant("v", kit.variant(1))
    loop.runner.poison = 63
    for i in range(6):
        sampling = Sampling(temperature=0.0)
        loop.submit(kit.request(f"r{i}", [i, 5], 4, variant=[None, "v"][i % 2], sampling=sampling))
    loop.submit(kit.request("poison", [63, 1], 4, variant="v"))
    events = kit.run(loop)
    assert complete(events["poison"]).finish_reason == "error"
    for i in range(6):
        want = kit.greedy([i, 5], 4, stamp=10 * (i % 2))
        if 63 not in want:
            assert ids(events[f"r{i}"]) == want
