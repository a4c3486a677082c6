"""Ctrl-C ends a reply and nothing else; a cost line says how the energy is known."""

import os
import signal
import sys

import pytest

from tuition.cli.cost_line import cost_line
from tuition.cli.partners import cancelled_by_ctrl_c, show


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


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_model_gives_a_terminal_no_orders(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "\x1b]52;c;aGk=\x07One\tline\nand ‘another’\x9b2J"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    show(said)
    told = "\ufffd]52;c;aGk=\ufffdOne\tline\nand ‘another’\ufffd2J"
    assert capsys.readouterr().out == (told if is_terminal else said)
