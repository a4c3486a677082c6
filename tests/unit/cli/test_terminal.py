"""Live bars on a terminal, plain lines elsewhere; both tell the same."""

import io

from tuition.cli.terminal import HeldBack, LiveProgress, open_progress
from tuition.core.progress import LineProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars_and_a_pipe_gets_lines() -> None:
    assert isinstance(open_progress(Terminal()), LiveProgress)
    assert isinstance(open_progress(io.StringIO()), LineProgress)


def test_what_a_reader_waits_for_is_explained_and_news_is_told_at_once() -> None:
    for slow_s, told in ((1_000, "news\n"), (0, "one\ntwo\nnews\n")):
        stream = io.StringIO()
        progress = HeldBack(LineProgress(stream), slow_s)
        progress.detail("one")
        progress.detail("two")
        progress.say("news")
        assert stream.getvalue() == told


def test_nested_bars_show_amounts_notes_and_what_is_said() -> None:
    stream = Terminal()
    progress = LiveProgress(stream, quick_s=0)
    with progress.task("outer", 10, "tokens") as outer:
        with progress.task("inner", 2048, "B") as inner:
            inner.advance(1024, note="half")
        progress.say("in [brackets] between")
        outer.advance(10)
    shown = stream.getvalue()
    assert "1.0 KiB of 2.0 KiB" in shown
    assert "10 of 10 tokens" in shown
    assert "half" in shown
    assert "in [brackets] between" in shown


def test_a_bar_that_was_full_at_once_goes_again() -> None:
    """The last frame has no bar, and the next line begins where the bar was."""
    for quick_s, is_left in ((0, True), (1_000, False)):
        stream = Terminal()
        with LiveProgress(stream, quick_s).task("pack weights", 1) as task:
            task.advance()
        last = stream.getvalue().rpartition("\x1b[2K")[2]
        assert ("pack weights" in last) is is_left
        assert ("\n" in last) is is_left


def test_the_display_ends_with_its_last_bar_also_after_an_error() -> None:
    stream = Terminal()
    progress = LiveProgress(stream)
    try:
        with progress.task("work"):
            raise KeyError
    except KeyError:
        pass
    before = stream.getvalue()
    assert before.endswith("\x1b[?25h"), "the cursor is shown again"
    with progress.task("again", 1) as task:
        task.advance()
    assert len(stream.getvalue()) > len(before)
