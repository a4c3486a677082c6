"""The step loop: replies, isolation, speculation, the bill of waste."""

import numpy as np
import pytest

from tuition.core.errors import CapacityError, RequestError
from tuition.engine.request import Sampling, complete


def ids(events) -> list[int]:
    return list(complete(events).token_ids)


def test_greedy_reply_is_what_the_network_says(kit) -> None:
    loop = kit.loop()
    prompts = {f"r{i}": list(range(i, i + 5 + 3 * i)) for i in range(6)}
    for name, prompt in prompts.items():
        loop.submit(kit.request(name, prompt, 10))
    events = kit.run(loop)
    for name, prompt in prompts.items():
        assert ids(events[name]) == kit.greedy(prompt, 10)
        assert complete(events[name]).finish_reason == "length"
    assert loop.stats().num_free_blocks == loop.stats().num_blocks


def test_chunked_prompts_and_preemption_change_no_reply(kit) -> None:
    loop = kit.loop(num_blocks=24, token_budget=8, max_batch=8, context_length=90)
    prompts = {f"r{i}": [(7 * i + j) % 60 for j in range(12 + i)] for i in range(8)}
    for name, prompt in prompts.items():
        loop.submit(kit.request(name, prompt, 24))
    events = kit.run(loop)
    assert loop.stats().num_preemptions > 0
    assert loop.runner.most_rows <= 8
    for name, prompt in prompts.items():
        assert ids(events[name]) == kit.greedy(prompt, 24)


def test_a_step_that_is_interrupted_does_not_stay_busy(kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger waits for the end of a running step: it must not wait for ever."""

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    loop = kit.loop()
    loop.submit(kit.request("r", [1, 2, 3], 4))
    monkeypatch.setattr(loop.runner, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.step()
    marks = loop.busy.read(0)
    assert (marks.since_ns, marks.num_pieces) == (None, 1)
    assert marks.busy_ns > 0


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_speculation_changes_the_number_of_steps_and_no_reply(kit, temperature: float) -> None:
    replies, steps = {}, {}
    for speculation in ("off", "auto"):
        loop = kit.loop(repetitive=True, speculation=speculation)
        for i in range(3):
            sampling = Sampling(temperature=temperature, seed=i)
            prompt = [i, 5, 9, 11, 3, 2, 8, i, 5, 9, 11]
            loop.submit(kit.request(f"r{i}", prompt, 80, sampling=sampling, logprobs=2))
        events = kit.run(loop)
        replies[speculation] = {name: complete(found) for name, found in events.items()}
        steps[speculation] = loop.runner.num_steps
    assert steps["auto"] < 0.8 * steps["off"]
    for name, reply in replies["off"].items():
        assert replies["auto"][name].token_ids == reply.token_ids
        assert replies["auto"][name].logprobs == reply.logprobs


def test_a_seeded_reply_does_not_depend_on_neighbours(kit) -> None:
    def reply(neighbours: int) -> tuple[int, ...]:
        loop = kit.loop()
        sampling = Sampling(temperature=1.0, top_p=0.9, seed=42, presence_penalty=0.5)
        loop.submit(kit.request("me", range(9), 30, sampling=sampling))
        for i in range(neighbours):
            loop.submit(kit.request(f"n{i}", range(i, i + 20), 20, sampling=Sampling(seed=i)))
        return complete(kit.run(loop)["me"]).token_ids

    assert reply(0) == reply(3) == reply(7)


def test_cached_tokens_are_counted_and_the_reply_is_the_same(kit) -> None:
    loop = kit.loop()
    prompt = list(range(22))
    loop.submit(kit.request("first", prompt))
    first = complete(kit.run(loop)["first"])
    rows = loop.runner.num_rows
    loop.submit(kit.request("second", prompt))
    second = complete(kit.run(loop)["second"])
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 20)
    assert first.token_ids == second.token_ids
    assert loop.runner.num_rows - rows == rows - 20


def test_a_whole_number_of_cached_blocks_still_computes_the_last_token(kit) -> None:
    loop = kit.loop()
    for name in ("first", "second"):
        loop.submit(kit.request(name, range(16)))
        reply = complete(kit.run(loop)[name])
        assert list(reply.token_ids) == kit.greedy(range(16), 8)
    assert reply.num_cached_tokens == 12


def test_salts_share_nothing(kit) -> None:
    loop = kit.loop()
    for salt in ("key a", "key b"):
        loop.submit(kit.request(salt, range(30), cache_salt=salt))
        assert complete(kit.run(loop)[salt]).num_cached_tokens == 0


def test_prefix_cache_off_shares_nothing(kit) -> None:
    loop = kit.loop(prefix_cache="off")
    for name in ("first", "second"):
        loop.submit(kit.request(name, range(30)))
        assert complete(kit.run(loop)[name]).num_cached_tokens == 0


def test_cancelling_frees_blocks_at_once_and_ends_the_stream_once(kit) -> None:
    loop = kit.loop(prefix_cache="off")
    loop.submit(kit.request("gone", range(40), 50))
    loop.submit(kit.request("stays", range(10), 5))
    loop.step()
    free = loop.stats().num_free_blocks
    assert loop.cancel("gone")
    assert loop.stats().num_free_blocks > free
    assert not loop.cancel("gone")
    events = kit.run(loop)
    assert [e.finish_reason for e in events["gone"]][-1] == "cancelled"
    assert ids(events["stays"])[-1] == kit.greedy(range(10), 5)[-1]


def test_a_request_that_raises_in_the_model_step_fails_alone(kit) -> None:
    loop = kit.loop()
    loop.runner.poison = 63
    prompts = {f"r{i}": [i, i + 1, i + 2] for i in range(7)}
    for name, prompt in prompts.items():
        loop.submit(kit.request(name, prompt, 4))
    loop.submit(kit.request("poison", [63, 1, 2], 4))
    events = kit.run(loop)
    bad = complete(events["poison"])
    assert bad.finish_reason == "error"
    assert "poison in the step" in (bad.error or "")
    for name, prompt in prompts.items():
        if 63 not in kit.greedy(prompt, 4):
            assert ids(events[name]) == kit.greedy(prompt, 4)
    assert loop.stats().num_free_blocks == loop.stats().num_blocks


def test_a_request_whose_logits_are_not_finite_fails_alone(kit) -> None:
    loop = kit.loop()
    loop.runner.nan_token = 50
    loop.submit(kit.request("good", [1, 2], 4))
    loop.submit(kit.request("bad", [50, 2], 4))
    loop.submit(kit.request("drawn", [50, 2, 3], 4, sampling=Sampling(seed=1)))
    events = kit.run(loop)
    assert complete(events["bad"]).finish_reason == complete(events["drawn"]).finish_reason == "error"
    assert ids(events["good"]) == kit.greedy([1, 2], 4)


def test_a_request_whose_text_raises_fails_alone(kit) -> None:
    loop = kit.loop()
    prompts = {f"r{i}": [i, i + 1, i + 2] for i in range(8)}
    replies = {name: kit.greedy(prompt, 6) for name, prompt in prompts.items()}
    loop.tokenizer.poison = replies["r3"][2]
    for name, prompt in prompts.items():
        loop.submit(kit.request(name, prompt, 6))
    events = kit.run(loop)
    assert complete(events["r3"]).finish_reason == "error"
    spared = [name for name in replies if loop.tokenizer.poison not in replies[name]]
    assert len(spared) >= 4
    for name in spared:
        assert ids(events[name]) == replies[name]


def test_stop_ids_end_the_reply_and_are_not_in_its_text(kit) -> None:
    reply = kit.greedy(range(5), 8)
    loop = kit.loop()
    loop.submit(kit.request("stops", range(5), 8, stop_ids=(reply[3],)))
    loop.submit(kit.request("goes on", range(5), 8, stop_ids=(reply[3],), ignore_eos=True))
    events = kit.run(loop)
    stopped = complete(events["stops"])
    cut = reply.index(reply[3])
    assert stopped.finish_reason == "stop"
    assert list(stopped.token_ids) == reply[: cut + 1]
    assert stopped.text == "".join(chr(48 + t) for t in reply[:cut])
    assert ids(events["goes on"]) == reply


@pytest.mark.parametrize("settings", [{}, {"bursts": True}, {"repetitive": True, "speculation": "auto"}])
def test_an_end_token_that_was_drawn_has_its_logprob(kit, settings: dict) -> None:
    """Also as the first token of the reply, which is what log-likelihoods of a continuation need."""
    repetitive = settings.get("repetitive", False)
    prompt = [1, 5, 9, 11, 3, 2, 8, 1, 5, 9, 11]
    reply = kit.greedy(prompt, 30, repetitive)
    for end in (reply[0], reply[-1]):
        loop = kit.loop(**settings)
        loop.submit(kit.request("r", prompt, 30, stop_ids=(end,), logprobs=1, prompt_logprobs=1))
        done = complete(kit.run(loop)["r"])
        assert (done.finish_reason, done.token_ids[-1]) == ("stop", end)
        assert [score.token_id for score in done.logprobs] == list(done.token_ids)
        known = [*prompt, *done.token_ids[:-1]]
        row = kit.logits_after(known, repetitive=repetitive).astype(np.float64)
        want = row[end] - np.log(np.exp(row).sum())
        assert done.logprobs[-1].logprob == pytest.approx(want, abs=1e-5)  # float32 exponentials


def test_stop_text_across_tokens_is_held_back_and_not_returned(kit) -> None:
    reply = kit.greedy(range(5), 12)
    letters = "".join(chr(48 + t) for t in reply)
    loop = kit.loop()
    loop.submit(kit.request("r", range(5), 12, stop=(letters[4:7],)))
    done = complete(kit.run(loop)["r"])
    assert done.text == letters[: letters.index(letters[4:7])]
    assert done.finish_reason == "stop"


def test_scoring_a_prompt_gives_each_token_its_logprob(kit) -> None:
    prompt = [(5 * i) % 60 for i in range(100)]
    loop = kit.loop(token_budget=32)
    loop.submit(kit.request("warm", prompt, 2))
    kit.run(loop)
    loop.submit(kit.request("score", prompt, 0, prompt_logprobs=3))
    events = kit.run(loop)["score"]
    scores = complete(events).prompt_logprobs
    assert scores is not None
    assert [score.token_id for score in scores] == prompt
    assert scores[0].logprob is None
    for place in range(1, len(prompt)):
        row = kit.logits_after(prompt[:place]).astype(np.float64)
        want = row[prompt[place]] - np.log(np.exp(row).sum())
        assert scores[place].logprob == pytest.approx(want, abs=1e-5)  # float32 exponentials
        assert scores[place].top[0][0] == row.argmax()
        assert len(scores[place].top) == 3
    assert (complete(events).num_generated, complete(events).finish_reason) == (0, "length")


def test_prompt_scores_survive_preemption(kit) -> None:
    loop = kit.loop(num_blocks=20, token_budget=8, max_batch=4, context_length=80)
    prompts = {f"r{i}": [(11 * i + j) % 60 for j in range(20)] for i in range(4)}
    for name, prompt in prompts.items():
        loop.submit(kit.request(name, prompt, 16, prompt_logprobs=1))
    events = kit.run(loop)
    for name, prompt in prompts.items():
        done = complete(events[name])
        assert [s.token_id for s in done.prompt_logprobs or ()] == prompt
        assert list(done.token_ids) == kit.greedy(prompt, 16)


def test_every_computed_row_is_billed_once_and_waste_is_told(kit) -> None:
    loop = kit.loop(num_blocks=24, token_budget=8, max_batch=8, context_length=90,
                    prefix_cache="off", repetitive=True, speculation="auto")  # fmt: skip
    for i in range(8):
        loop.submit(kit.request(f"r{i}", [(7 * i + j) % 60 for j in range(12)], 24))
    work, events = [], []
    while loop.has_work:
        new, trace = loop.step()
        events += new
        work += trace.work if trace else ()
    assert sum(one.num_tokens for one in work) == loop.runner.num_rows
    useful = sum(one.num_tokens - one.num_wasted for one in work)
    assert useful == 8 * (12 + 24 - 1)  # the last token of a reply is never computed
    assert loop.stats().num_preemptions > 0
    assert sum(one.num_wasted for one in work) > 0


def test_each_stream_ends_exactly_once_with_its_timing(kit) -> None:
    loop = kit.loop()
    for i in range(5):
        loop.submit(kit.request(f"r{i}", [i], 3))
    for events in kit.run(loop).values():
        assert [e.finish_reason is not None for e in events] == [False, False, True]
        assert [e.num_generated for e in events] == [1, 2, 3]
        timing = events[-1].timing
        assert timing.submitted_ns <= timing.admitted_ns <= timing.first_token_ns <= timing.finished_ns


def test_what_cannot_run_is_refused_with_both_numbers(kit) -> None:
    loop = kit.loop(num_blocks=10, context_length=64)
    with pytest.raises(CapacityError, match=r"65 .*64"):
        loop.submit(kit.request("long", [0] * 65, 1))
    with pytest.raises(CapacityError, match=r"70 .*64 .*lower max_tokens to 34"):
        loop.submit(kit.request("long", [0] * 30, 40))
    with pytest.raises(CapacityError, match=r"50 .*40"):
        loop.submit(kit.request("cache", [0] * 30, 20))
    with pytest.raises(RequestError, match="prompt"):
        loop.submit(kit.request("empty", [], 1))
    with pytest.raises(RequestError, match="prompt"):
        loop.submit(kit.request("foreign", [kit.VOCAB], 1))
    assert not loop.has_work
