"""Several decode steps in one call of the runner: the same replies, told in fewer events, and paid alike."""

import threading
from dataclasses import replace

import pytest

from tuition.core.records import SequenceWork
from tuition.engine.pace import Pace
from tuition.engine.request import Sampling, complete
from tuition.engine.service import EngineService
from tuition.engine.speculation import PromptLookup
from tuition.ledger.shares import StepCosts

REPLY = 30


def replies(kit, *, bursts: bool, **settings) -> dict:
    loop = kit.loop(bursts=bursts, **settings)
    for i in range(3):
        loop.submit(kit.request(f"plain{i}", range(i, i + 5), REPLY - i))
    return {name: complete(events) for name, events in kit.run(loop).items()}


def test_a_burst_gives_the_reply_of_single_steps_in_fewer_events(kit) -> None:
    loop = kit.loop(bursts=True)
    loop.submit(kit.request("lone", range(5), REPLY))
    events = kit.run(loop)["lone"]
    assert list(complete(events).token_ids) == kit.greedy(range(5), REPLY)
    assert "".join(event.text for event in events) == "".join(
        chr(48 + i) for i in kit.greedy(range(5), REPLY)
    )
    assert [event.num_generated for event in events] == [1, REPLY]
    assert loop.runner.bursts == [REPLY - 1]


@pytest.mark.parametrize("num_blocks", [64, 26])
def test_bursts_of_several_end_with_the_first_that_is_done(kit, num_blocks: int) -> None:
    """Also where the cache is too small to take blocks ahead."""
    single, burst = (replies(kit, bursts=on, num_blocks=num_blocks) for on in (False, True))
    assert {n: r.token_ids for n, r in single.items()} == {n: r.token_ids for n, r in burst.items()}
    assert {n: r.text for n, r in single.items()} == {n: r.text for n, r in burst.items()}


DRAWN = (
    Sampling(temperature=0.9, seed=1),
    Sampling(temperature=0.0),
    Sampling(temperature=1.4, top_k=20, top_p=0.9, min_p=0.01, seed=-7),
    Sampling(temperature=2.0, seed=2**80 + 3),
)


@pytest.mark.parametrize("together", [False, True])
def test_drawn_tokens_are_those_of_single_steps(kit, together: bool) -> None:
    found = []
    for bursts in (False, True):
        loop, tokens = kit.loop(bursts=bursts), {}
        for i, sampling in enumerate(DRAWN):
            loop.submit(kit.request(f"r{i}", range(i, i + 5), REPLY - i, sampling=sampling))
            if not together:
                tokens |= {name: complete(events).token_ids for name, events in kit.run(loop).items()}
        tokens |= {name: complete(events).token_ids for name, events in kit.run(loop).items()}
        found.append(tokens)
        assert not bursts or sum(loop.runner.bursts) >= REPLY - 1
    assert found[0] == found[1]
    assert found[0]["r0"] != kit.greedy(range(5), REPLY)


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": 2},
        {"sampling": Sampling(temperature=0.9, seed=1), "logprobs": 0},
        {"sampling": Sampling(temperature=0.9, seed=1, presence_penalty=0.5)},
        {"sampling": Sampling(temperature=0.0, repetition_penalty=1.1)},
        {"sampling": Sampling(temperature=0.9, seed=1, logit_bias=((3, 1.0),))},
    ],
)
def test_whoever_needs_rows_in_python_takes_single_steps_with_the_runners_draw(kit, fields) -> None:
    loop = kit.loop(bursts=True)
    loop.submit(kit.request("plain", range(4), 10))
    loop.submit(kit.request("other", range(4), 10, **fields))
    kit.run(loop)
    assert loop.runner.bursts == []
    drawn = fields.get("sampling", Sampling(temperature=0.0)).temperature > 0
    assert loop.runner.num_draws == (10 if drawn else 0)


@pytest.mark.parametrize("bursts", [False, True])
@pytest.mark.parametrize("cut", [{"top_p": 0.0}, {"top_k": 1}, {"top_p": 0.0, "top_k": 5, "min_p": 0.5}])
def test_a_cut_that_keeps_one_token_keeps_the_most_likely(kit, bursts: bool, cut: dict) -> None:
    loop = kit.loop(bursts=bursts)
    sampling = Sampling(temperature=2.0, seed=3, **cut)
    loop.submit(kit.request("lone", range(5), REPLY, sampling=sampling))
    assert list(complete(kit.run(loop)["lone"]).token_ids) == kit.greedy(range(5), REPLY)


def test_a_trace_tells_the_steps_of_its_burst(kit) -> None:
    loop = kit.loop(bursts=True)
    loop.submit(kit.request("lone", range(5), REPLY))
    traces = []
    while loop.has_work:
        traces.append(loop.step()[1])
    assert [trace.num_steps for trace in traces] == [1, REPLY - 1]
    assert traces[1].work == (SequenceWork("lone", "decode", REPLY - 1, 5, REPLY - 1),)


def test_tokens_behind_a_stop_text_are_waste_and_not_part_of_the_reply(kit) -> None:
    want = kit.greedy(range(5), REPLY)
    stop = "".join(chr(48 + i) for i in want[9:11])
    loop = kit.loop(bursts=True)
    loop.submit(kit.request("stops", range(5), REPLY, stop=(stop,)))
    loop.submit(kit.request("goes on", range(6), REPLY))
    work, events = [], {"stops": [], "goes on": []}
    while loop.has_work:
        told, trace = loop.step()
        loop.check()
        for event in told:
            events[event.request_id].append(event)
        work += [one for one in trace.work if one.request_id == "stops"]
    done = complete(events["stops"])
    assert (done.finish_reason, done.num_generated) == ("stop", 11)
    assert done.text == "".join(chr(48 + i) for i in want[:9])
    assert sum(one.num_tokens for one in work) - sum(one.num_wasted for one in work) == 5 + 10
    assert list(complete(events["goes on"]).token_ids) == kit.greedy(range(6), REPLY)


def test_a_stop_id_ends_the_burst(kit) -> None:
    want = kit.greedy(range(5), REPLY)
    stop_id = want[12]
    first = want.index(stop_id)
    loop = kit.loop(bursts=True)
    loop.submit(kit.request("stops", range(5), REPLY, stop_ids=(stop_id,)))
    done = complete(kit.run(loop)["stops"])
    assert (done.finish_reason, list(done.token_ids)) == ("stop", want[: first + 1])
    assert done.text == "".join(chr(48 + i) for i in want[:first])
    assert sum(loop.runner.bursts) == first


def test_logits_that_are_not_finite_end_their_request_alone(kit) -> None:
    loop = kit.loop(bursts=True)
    loop.submit(kit.request("good", range(5), REPLY))
    loop.submit(kit.request("bad", [7, 8, 9], REPLY))
    loop.step()
    loop.runner.nan_token = 7
    events = kit.run(loop)
    assert complete(events["bad"]).finish_reason == "error"
    assert complete(events["good"]).finish_reason == "length"
    assert complete(events["good"]).token_ids[-1] == kit.greedy(range(5), REPLY)[-1]


def test_in_a_hurry_a_burst_is_one_step(kit) -> None:
    loop = kit.loop(bursts=True)
    loop.submit(kit.request("lone", range(5), REPLY))
    loop.step()
    loop.hurry(True)
    loop.step()
    loop.hurry(False)
    kit.run(loop)
    assert loop.runner.bursts == [1, REPLY - 2]


def test_a_newcomer_and_a_cancel_end_the_burst_at_hand(kit) -> None:
    loop = kit.loop(bursts=True)
    begun, runner = threading.Event(), loop.runner
    decode = runner.decode

    def waits_for_haste(*args):
        begun.set()
        for _ in range(5_000):
            if runner.in_a_hurry:
                break
            threading.Event().wait(0.001)
        assert runner.in_a_hurry, "nobody ended the burst"
        runner.decode = decode
        return decode(*args)

    service = EngineService(loop)
    try:
        for disturb in ("submit", "cancel"):
            begun.clear()
            runner.decode = waits_for_haste
            stream = service.submit(kit.request(f"long {disturb}", range(5), REPLY))
            assert begun.wait(10)
            if disturb == "submit":
                other = service.submit(kit.request("short", range(3), 2))
                assert other.result().num_generated == 2
            else:
                stream.cancel()
                assert stream.result().num_generated < REPLY
    finally:
        service.stop()


@pytest.mark.parametrize("window", [None, 1, 5, 43, 500])
def test_a_burst_costs_what_its_steps_cost(kit, window: int | None) -> None:
    shape = replace(
        kit.loop().runner.shape, num_layers=2, sliding_window=window, window_layers=(1,) if window else ()
    )
    costs = StepCosts(shape)
    single = [costs.load(SequenceWork("r", "decode", 1, 40 + i, 1)) for i in range(8)]
    burst = costs.load(SequenceWork("r", "decode", 8, 40, 8), num_steps=8)
    assert burst.flops == sum(load.flops for load in single)
    assert burst.kv_bytes == sum(load.kv_bytes for load in single)


def test_an_interactive_newcomer_that_takes_a_place_is_no_decode(kit) -> None:
    loop = kit.loop(bursts=True, max_batch=1)
    loop.submit(kit.request("batch", range(4), REPLY, priority="batch"))
    loop.step()
    loop.submit(kit.request("now", range(6), 4, priority="interactive"))
    done = {name: complete(events) for name, events in kit.run(loop).items()}
    assert list(done["now"].token_ids) == kit.greedy(range(6), 4)
    assert done["batch"].token_ids[-1] == kit.greedy(range(4), REPLY)[-1]


def test_blocks_taken_ahead_are_given_back_when_somebody_waits(kit) -> None:
    loop = kit.loop(bursts=True, num_blocks=40, context_length=160)
    loop.submit(kit.request("long", range(4), 100))
    loop.step()
    loop.hurry(True)
    loop.step()
    loop.hurry(False)
    assert loop.stats().num_free_blocks == 38  # it has six tokens, in blocks of four
    loop.submit(kit.request("second", [*range(50), *range(50)], 2))
    told = {event.request_id for _ in range(2) for event in loop.step()[0]}
    assert "second" in told


def test_a_stop_text_keeps_to_single_steps_while_somebody_waits(kit) -> None:
    loop = kit.loop(bursts=True, max_batch=1)
    loop.submit(kit.request("may stop", range(4), 10, stop=("never",)))
    loop.submit(kit.request("waits", range(5), 10))
    kit.run(loop)
    assert loop.runner.bursts == [9]


def test_after_a_burst_that_raises_the_single_step_decides(kit) -> None:
    want = kit.greedy(range(5), REPLY)
    loop = kit.loop(bursts=True)
    loop.runner.poison = next(token for token in want[8:] if token not in want[:8])
    loop.submit(kit.request("lone", range(5), REPLY))
    done = complete(kit.run(loop)["lone"])
    assert done.finish_reason == "error"
    assert list(done.token_ids) == want[: 1 + want.index(loop.runner.poison)]


def test_a_slow_model_takes_only_what_fits_into_the_time_of_a_burst(kit) -> None:
    clock = kit.Clock()  # some microseconds a step
    loop = kit.loop(bursts=True, pace=Pace(max_seconds=10e-6), clock=clock)
    loop.submit(kit.request("lone", range(5), REPLY))
    asked = []
    decode = loop.runner.decode

    def slow(batch, num_steps, *rest):
        asked.append(num_steps)
        clock.now += 8_000 * num_steps
        return decode(batch, min(num_steps, 2), *rest)

    loop.runner.decode = slow
    kit.run(loop)
    assert asked[0] == REPLY - 1
    assert max(asked[1:]) <= 3


def test_one_slow_burst_does_not_end_bursts(kit) -> None:
    pace = Pace(step_s=1.0)
    loop = kit.loop(bursts=True, pace=pace)
    for name in ("first", "second"):
        loop.submit(kit.request(name, range(5), REPLY))
        kit.run(loop)
    assert pace.step_s < 0.001
    assert loop.runner.bursts[-1] == REPLY - 1


class Notes(PromptLookup):
    """Never drafts; keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.learned: list[tuple[int, ...]] = []

    def pays(self, num_decodes: int) -> bool:
        return False

    def learn(self, *numbers: int) -> None:
        self.learned.append(numbers)


def test_a_burst_that_was_cut_to_one_step_does_not_count_as_a_plain_step(kit) -> None:
    """It costs more than one of a long burst, and would make drafts look cheap."""
    notes = Notes()
    loop = kit.loop(bursts=True, drafter=notes, speculation="auto")
    loop.submit(kit.request("lone", range(5), REPLY))
    loop.step()
    loop.hurry(True)
    loop.step()
    loop.hurry(False)
    assert loop.runner.bursts == [1]
    assert notes.learned == []
    kit.run(loop)
    assert [numbers[-1] for numbers in notes.learned] == loop.runner.bursts[1:]


def test_stop_ids_that_no_vocabulary_has_are_never_met(kit) -> None:
    loop = kit.loop(bursts=True)
    loop.submit(kit.request("lone", range(5), REPLY, stop_ids=(-1, 1 << 40)))
    assert list(complete(kit.run(loop)["lone"]).token_ids) == kit.greedy(range(5), REPLY)
