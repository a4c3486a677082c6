"""A signal that comes inside takes effect at the end of a block, once; a second one at once."""

import signal
import threading
from types import FrameType

import pytest

from tuition.core.held_signals import HeldSignals


def interrupted(times: int, done: list[str]) -> None:
    with HeldSignals():
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        done.append("the rest")


@pytest.mark.parametrize(("times", "wanted"), [(1, ["the rest"]), (2, [])])
def test_one_signal_waits_for_the_end_and_a_second_does_not(times: int, wanted: list[str]) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(times, done)
    assert done == wanted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("inside", [True, False])
def test_a_signal_takes_effect_at_the_end_of_the_piece_at_hand_or_of_the_next(inside: bool) -> None:
    held, done = HeldSignals(), []

    def pieces() -> None:
        with held:
            for piece in range(5):
                if piece == 2 and not inside:
                    signal.raise_signal(signal.SIGINT)
                with held:
                    if piece == 2 and inside:
                        signal.raise_signal(signal.SIGINT)
                    done.append(piece)

    with pytest.raises(KeyboardInterrupt):
        pieces()
    assert done == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_is_not_lost_where_the_piece_fails() -> None:
    def fail() -> None:
        with HeldSignals():
            signal.raise_signal(signal.SIGINT)
            raise ValueError

    with pytest.raises(KeyboardInterrupt) as caught:
        fail()
    assert isinstance(caught.value.__context__, ValueError)


def test_a_signal_while_handlers_are_put_back_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    held, put = HeldSignals(), signal.signal
    told: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        told.append(number)

    monkeypatch.setattr(signal, "signal", lambda number, handler: (put(number, handler), signal_once())[0])
    comes = iter([False] * 2 + [True])

    def signal_once() -> None:
        if next(comes, False):
            raise KeyboardInterrupt

    before = put(signal.SIGTERM, hear)
    try:
        with pytest.raises(KeyboardInterrupt), held:
            pass
        with held:
            signal.raise_signal(signal.SIGTERM)
        assert told == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is hear
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        put(signal.SIGTERM, before)


def test_other_threads_get_no_signals_and_leave_the_handlers_alone() -> None:
    seen = []

    def work() -> None:
        with HeldSignals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert seen == [signal.default_int_handler]
