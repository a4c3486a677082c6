"""Ctrl-C ends a reply and nothing else; a cost line says how the energy is known."""

import os
import signal

from tuition.cli.billed import cost_line
from tuition.cli.partners import cancelled_by_ctrl_c


class Stream:
    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def test_ctrl_c_cancels_the_reply_and_only_the_reply() -> None:
    stream, before = Stream(), signal.getsignal(signal.SIGINT)
    with cancelled_by_ctrl_c(stream):  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)
    assert stream.cancelled == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_the_cost_line_says_how_energy_is_known_and_how_the_reply_ended() -> None:
    line = cost_line(
        4_120,
        3_600_000,
        prompt_tokens=3,
        generated_tokens=10,
        seconds=0.5,
        energy_method="modelled",
        finish_reason="length",
    )
    assert (
        line == "3 + 10 tokens in 500 ms, 20 tokens/s · 0.001 Wh (modelled) · $0.00000412 · ended by length"
    )
    silent = cost_line(
        0, None, prompt_tokens=3, generated_tokens=0, seconds=0, energy_method=None, finish_reason="stop"
    )
    assert "unknown" in silent
    assert "ended by" not in silent
