"""Ctrl-C during training: said at once, obeyed between two steps; the second one interrupts."""

import os
import signal
import threading
import time
import zlib

import pytest

from tuition.train.stop import StopRequest


def test_a_signal_is_announced_while_the_main_thread_is_in_a_long_call() -> None:
    """As while a checkpoint is written: Python's own handler runs only when the call returns."""
    said: list[tuple[str, float]] = []
    with StopRequest(lambda name: said.append((name, time.monotonic()))) as stop:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        zlib.compress(bytes(2**28), 9)  # one call of about a second
        returned = time.monotonic()
        timer.join()
        assert stop.requested == "SIGINT"
    ((name, at),) = said
    assert name == "SIGINT"
    assert at < returned


def test_the_second_signal_interrupts_and_is_not_announced_again() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest(said.append) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert said == ["SIGTERM"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_of_the_main_thread_nothing_is_installed() -> None:
    def work() -> None:
        with StopRequest(pytest.fail) as stop:
            assert stop.requested is None

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
