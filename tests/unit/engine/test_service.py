"""The engine's thread: streams for threads and event loops, cancelling, draining, failing without hanging."""

import asyncio
import threading
import time

import pytest

from tuition.core.errors import BusyError, RequestError
from tuition.engine.request import complete
from tuition.engine.service import EngineService


@pytest.fixture
def service(kit):
    found = EngineService(kit.loop(max_waiting=100), name="shared service")
    yield found
    found.stop()
    assert not is_running("shared service")


def is_running(name: str) -> bool:
    """Whether a thread of this name is alive."""
    return name in {thread.name for thread in threading.enumerate()}


def test_threads_and_event_loops_read_the_same_reply(kit, service) -> None:
    want = kit.greedy(range(6), 20)
    assert list(service.submit(kit.request("sync", range(6), 20)).result().token_ids) == want

    async def read() -> list[int]:
        streams = [service.submit(kit.request(f"a{i}", range(6), 20)) for i in range(5)]
        replies = await asyncio.gather(*(stream.aresult() for stream in streams))
        assert len({reply.token_ids for reply in replies}) == 1
        return list(replies[0].token_ids)

    assert asyncio.run(read()) == want


def test_an_asynchronous_reader_costs_no_thread(kit, service) -> None:
    async def read() -> int:
        streams = [service.submit(kit.request(f"r{i}", [i], 30)) for i in range(50)]
        threads = threading.active_count()
        await asyncio.gather(*(stream.aresult() for stream in streams))
        return threads

    before = threading.active_count()
    assert asyncio.run(read()) == before


def test_a_cancelled_stream_ends_and_frees_its_blocks(kit, monkeypatch) -> None:
    """The runner waits at its tenth step until the reader has cancelled: no reader outruns a double."""
    loop, cancelled = kit.loop(), threading.Event()
    real = loop.runner.forward

    def forward(batch):
        assert loop.runner.num_steps < 10 or cancelled.wait(30)
        return real(batch)

    monkeypatch.setattr(loop.runner, "forward", forward)
    service = EngineService(loop)
    stream = service.submit(kit.request("long", range(10), 200))
    events = []
    for event in stream:
        events.append(event)
        if len(events) == 3:
            stream.cancel()
            cancelled.set()
    assert events[-1].finish_reason == "cancelled"
    assert events[-1].num_generated < 200
    assert service.drain(5)
    stats = service.stats()
    assert stats.num_free_blocks == stats.num_blocks
    stream.cancel()  # harmless
    service.stop()


def test_a_slow_reader_does_not_stop_the_others(kit, service) -> None:
    slow = service.submit(kit.request("slow", range(4), 100))
    assert len(service.submit(kit.request("quick", range(5), 50)).result().token_ids) == 50
    assert len(slow.result().token_ids) == 100


def test_costs_are_known_before_a_reply_ends(kit) -> None:
    billed: dict[str, int] = {}

    def on_trace(trace) -> None:
        for work in trace.work:
            billed[work.request_id] = billed.get(work.request_id, 0) + work.num_tokens

    service = EngineService(kit.loop(), on_trace)
    try:
        for i in range(20):
            service.submit(kit.request(f"r{i}", [i, 1], 5)).result()
            assert billed[f"r{i}"] == 2 + 4
    finally:
        service.stop()


def test_a_listener_that_raises_stops_nobody_and_is_counted(kit) -> None:
    def on_trace(trace) -> None:
        raise OSError("no room for the bill")

    service = EngineService(kit.loop(), on_trace)
    try:
        assert service.submit(kit.request("r", [1], 5)).result().finish_reason == "length"
        assert service.stats().num_trace_errors == 5
    finally:
        service.stop()


def test_busy_and_ids_in_use_are_refused_at_once(kit) -> None:
    loop = kit.loop(max_batch=1, max_waiting=1)
    gate = threading.Event()
    forward = loop.runner.forward
    loop.runner.forward = lambda batch: (gate.wait(5), forward(batch))[1]
    service = EngineService(loop)
    try:
        first = service.submit(kit.request("a", [1], 3))
        with pytest.raises(RequestError, match="in use"):
            service.submit(kit.request("a", [1], 3))
        second = service.submit(kit.request("b", [1], 3))
        with pytest.raises(BusyError, match="2 requests"):
            service.submit(kit.request("c", [1], 3))
        gate.set()
        assert first.result().token_ids == second.result().token_ids
    finally:
        gate.set()
        service.stop()


def test_draining_takes_no_more_and_waits(kit) -> None:
    service = EngineService(kit.loop())
    stream = service.submit(kit.request("a", [1], 30))
    assert service.drain(10)
    assert stream.result().num_generated == 30
    with pytest.raises(BusyError, match="draining"):
        service.submit(kit.request("b", [1], 3))
    service.stop()


def test_stopping_ends_every_stream(kit) -> None:
    loop = kit.loop()
    forward = loop.runner.forward
    loop.runner.forward = lambda batch: (time.sleep(0.005), forward(batch))[1]
    service = EngineService(loop, name="stopped service")
    streams = [service.submit(kit.request(f"r{i}", [i], 200)) for i in range(12)]
    assert is_running("stopped service")
    next(iter(streams[0]))
    service.stop()
    assert {complete([*stream]).finish_reason for stream in streams[1:]} == {"cancelled"}
    assert not is_running("stopped service")


def test_a_bug_of_the_loop_ends_every_stream_with_an_error(kit) -> None:
    loop = kit.loop()
    service = EngineService(loop)
    loop.scheduler.plan = lambda *limits: 1 / 0
    done = service.submit(kit.request("a", [1], 30)).result()
    assert done.finish_reason == "error"
    assert "ZeroDivisionError" in (done.error or "")
    assert service.stats().state == "failed"
    with pytest.raises(BusyError, match="failed"):
        service.submit(kit.request("b", [1], 3))
    service.stop()


def test_wrong_books_are_found_when_idle_and_begun_anew(kit, service) -> None:
    """The planted fault: a block that somebody holds and nobody owns."""
    service.submit(kit.request("a", range(20), 3)).result()
    time.sleep(0.05)
    service.loop.scheduler.pool.take(1)
    service.submit(kit.request("b", range(20), 3)).result()
    deadline = time.monotonic() + 5
    while service.stats().num_integrity_errors == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert service.stats().num_integrity_errors == 1
    assert list(service.submit(kit.request("c", range(20), 3)).result().token_ids) == kit.greedy(range(20), 3)


def test_a_reader_whose_loop_is_gone_is_cancelled(kit, service) -> None:
    async def begin():
        stream = service.submit(kit.request("gone", range(5), 200))
        task = asyncio.ensure_future(stream.aresult())
        await asyncio.sleep(0)
        task.cancel()
        return stream

    stream = asyncio.run(begin())
    stream.cancel()
    assert service.drain(5)
