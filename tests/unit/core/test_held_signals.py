"""A signal that comes inside takes effect at the end, once; a second one at once."""

import signal

import pytest

from tuition.core.held_signals import signals_held


def interrupted(times: int, done: list[str]) -> None:
    with signals_held():
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
