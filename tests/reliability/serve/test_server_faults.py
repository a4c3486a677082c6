"""Clients that go away or read nothing, a failing request, books that fail."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from server_thread import RunningServer, start_server
from tuition.books.schema import requests
from tuition.core.amount import NOTHING
from tuition.core.errors import BooksError, BusyError
from tuition.ledger.reconciliation import reconcile
from tuition.serve.settings import ServeSettings


@pytest.fixture(scope="module")
def real(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, RunningServer]]:
    """A real engine on a tiny network, slow enough that a client can leave before its reply is over."""
    context = tiny.tiny_context(tmp_path_factory.mktemp("real"))
    runner = context.models["tiny"].runner
    forward = runner.forward

    def slowly(batch: Any) -> Any:
        time.sleep(0.002)
        return forward(batch)

    runner.forward = slowly
    with start_server(context) as server:
        yield context, server
    tiny.close_context(context)


def rows(context: Any) -> list[Any]:
    return list(context.books.read(lambda c: c.execute(select(requests)).all()))


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def ask_and_leave(url: str, *, stream: bool, read_bytes: int, tokens: int = 400) -> None:
    """Send a request over a bare socket, read some of the reply, and close."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"model": "tiny", "prompt": "To be", "max_tokens": tokens, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        got = 0
        while got < read_bytes:
            got += len(connection.recv(4096))
        if not read_bytes:
            time.sleep(0.03)


def leave_often(context: Any, server: RunningServer, times: int) -> None:
    service, before = context.models["tiny"].service, len(rows(context))
    for turn in range(times):
        stream = turn % 3 != 0
        ask_and_leave(server.url, stream=stream, read_bytes=300 * (turn % 4) if stream else 0)
    assert until(lambda: service.stats().num_running + service.stats().num_waiting == 0, 30)
    assert until(lambda: len(rows(context)) >= before + times, 30)
    assert service.stats().num_free_blocks == service.stats().num_blocks
    new = rows(context)[before:]
    assert {row.finish_reason for row in new} <= {"cancelled", "length", "stop"}
    cancelled = [row for row in new if row.finish_reason == "cancelled"]
    print(f"R1: {times} disconnects, {len(cancelled)} cancelled, 0 blocks leaked")
    assert len(cancelled) > times // 2
    assert all(row.generated_tokens < 400 for row in cancelled)
    assert all(row.total_cost_nusd > 0 for row in cancelled if row.generated_tokens > 5)


def test_clients_that_leave_free_their_slots_and_are_billed(real: Any) -> None:
    leave_often(*real, 8)


@pytest.mark.slow
def test_three_hundred_clients_that_leave(real: Any) -> None:
    leave_often(*real, 300)


def test_what_was_produced_is_billed_and_no_more(tiny: Any, scripted: Any) -> None:
    context, server = scripted(
        script=tiny.Script(["to be or not to be that is the question " * 3], pause_s=0.02)
    )
    ask_and_leave(server.url, stream=True, read_bytes=1200, tokens=100)
    service = context.models["tiny"].service
    assert until(lambda: len(rows(context)) == 1)
    assert service.streams[0].cancelled
    assert service.running == 0
    assert rows(context)[0].finish_reason == "cancelled"
    assert 0 < rows(context)[0].generated_tokens < 100


def test_a_failing_request_fails_alone(scripted: Any) -> None:
    context, server = scripted()
    context.models["tiny"].service.poison = "-1"  # the second sequence of a call
    one = {"model": "tiny", "prompt": "a", "max_tokens": 5}
    with httpx.Client(base_url=server.url) as http:
        failed = http.post("/v1/completions", json=one | {"n": 2})
        assert failed.status_code == 500
        assert failed.headers["x-request-id"] in failed.json()["error"]["message"]
        assert "poisoned" not in failed.text
        streamed = http.post("/v1/completions", json=one | {"n": 2, "stream": True}).text
        assert '"error"' in streamed
        assert "[DONE]" not in streamed
        assert http.post("/v1/completions", json=one).status_code == 200
    assert until(lambda: len(rows(context)) == 5), "failed sequences are billed too"


def test_a_full_engine_says_when_to_come_back(scripted: Any) -> None:
    context, server = scripted()
    context.models["tiny"].service.refusal = BusyError("1,024 requests are waiting", retry_after_s=3)
    reply = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "a"})
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "3"
    assert rows(context) == []


def failing_write(fn: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_exception(BooksError("the disk is full"))
    return future


def test_without_books_nothing_is_finished_and_it_recovers(
    scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, server = scripted()
    body = {"model": "tiny", "prompt": "a", "max_tokens": 5}
    with httpx.Client(base_url=server.url) as http:
        with monkeypatch.context() as broken:
            broken.setattr(context.books, "write", failing_write)
            plain = http.post("/v1/completions", json=body)
            assert plain.status_code == 503
            assert int(plain.headers["retry-after"]) > 0
            assert plain.json()["error"]["code"] == "books_unavailable"
            assert "choices" not in plain.json()
            streamed = http.post("/v1/completions", json=body | {"stream": True}).text
            assert "[DONE]" not in streamed
            assert '"finish_reason":"length"' not in streamed
            assert "books_unavailable" in streamed
        assert http.post("/v1/completions", json=body).status_code == 200
        assert len(rows(context)) == 1
    deadline = time.monotonic() + 20
    while (
        found := reconcile(context.books)
    ).attributed != found.requests:  # the meter is booked every second
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (found.findings, found.after_period) == ((), NOTHING)
    assert found.overhead != NOTHING, "what was refused took the machine's time"


def test_the_row_is_on_disk_before_the_end_is_sent(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold the commit back: neither finish_reason nor [DONE] may come before it."""
    context, server = scripted()
    write, committed_at = context.books.write, []

    def late_write(fn: Any) -> "Future[Any]":
        future: Future[Any] = Future()

        def commit() -> None:
            result = write(fn).result()
            committed_at.append(time.monotonic())
            future.set_result(result)

        threading.Timer(0.3, commit).start()
        return future

    monkeypatch.setattr(context.books, "write", late_write)
    body = {"model": "tiny", "prompt": "a", "max_tokens": 5, "stream": True}
    ends = []
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as reply:
        for line in reply.iter_lines():
            if '"finish_reason":"length"' in line or "[DONE]" in line:
                ends.append(time.monotonic())
    assert len(ends) == 2
    assert min(ends) >= committed_at[0]
    assert len(rows(context)) == 1


@pytest.mark.parametrize("begun", [True, False])
def test_when_the_books_are_slow_the_answer_says_what_they_hold(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """After the time is up a write that has begun is waited for, one that has not begun is withdrawn."""
    context, server = scripted(settings=ServeSettings(port=0, books_timeout_seconds=0.1))
    body = {"model": "tiny", "prompt": "a", "max_tokens": 5}
    assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200  # writes the rate, too
    write, hold = context.books.write, threading.Event()

    def slow(fn: Any) -> "Future[Any]":
        if begun:
            return write(lambda connection: (hold.wait(5), fn(connection))[1])
        write(lambda connection: hold.wait(5))
        time.sleep(0.05)  # the writer takes the one before into a group of its own
        return write(fn)

    monkeypatch.setattr(context.books, "write", slow)
    threading.Timer(0.5, hold.set).start()
    status = httpx.post(f"{server.url}/v1/completions", json=body).status_code
    hold.set()
    context.books.write_now(lambda connection: None)  # everything queued before is decided
    assert (status, len(rows(context))) == ((200, 2) if begun else (503, 1))


def test_slow_readers_do_not_slow_others(tiny: Any, scripted: Any) -> None:
    """A reader that takes nothing holds its own connection only."""
    context, server = scripted(script=tiny.Script(["to be or not to be that is the question " * 40]))
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 400, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    stuck = []
    for _ in range(8):
        connection = socket.create_connection((host, int(port)), 10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        stuck.append(connection)
    reply = httpx.post(
        f"{server.url}/v1/completions", json=json.loads(body) | {"stream": False, "max_tokens": 4}
    )
    assert reply.status_code == 200
    for connection in stuck:
        connection.close()
    assert until(lambda: context.models["tiny"].service.running == 0)
    assert until(lambda: len(rows(context)) == 9)


def test_two_servers_in_one_process_stop_by_themselves(scripted: Any) -> None:
    _, first = scripted()
    assert httpx.get(f"{first.url}/health").status_code == 200
    begin = time.monotonic()
    first.stop()
    assert time.monotonic() - begin < 5
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{first.url}/health")
    assert asyncio.get_event_loop_policy() is not None
