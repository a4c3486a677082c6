"""`tuition <verb> ...`: find the verb, run it, and turn an error into one line.

Only the file of that verb is imported, so that help is quick.
"""

import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from tuition.cli.help_text import filled, help_columns, listed
from tuition.core.errors import CapacityError, SettingsError, TuitionError

VERBS = {
    "demo": "teach a small model from scratch, use it, and read its bill",
    "train": "teach a new model from text, or fine-tune an open model on your examples",
    "serve": "answer over HTTP (OpenAI protocol) and show the chat page",
    "chat": "talk to a model in the terminal",
    "generate": "answer one prompt, or a file of prompts",
    "data": "show data as a model will see it, or make examples with an exact checker",
    "eval": "score a model on tasks or text, with the uncertainty of the score",
    "compare": "compare two models on the same tasks",
    "models": "list, show, add, merge or remove models and adapters",
    "bill": "what runs, requests and models have cost",
    "doctor": "what this machine has, what is missing, what it is assumed to cost",
    "machine": "measure how fast this machine computes and reads memory",
}

USAGE, FAILURE, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141

QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
"""Set before any optional import, so that no library contacts a network service. The only one that downloads,
huggingface_hub, is imported where a model of the hub is named."""

DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors of a disk, which are not bugs of this program."""

PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Set before torch is imported: a waiting thread sleeps. The usual spinning makes two threads lose most of
their speed on a machine that does anything else (lab log)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0, 2 for usage, 1 for other failures, 130 after Ctrl-C, 143
    after SIGTERM."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    for name, value in (QUIET | PATIENT).items():
        os.environ.setdefault(name, value)
    try:
        with signals_as_exceptions():
            status = dispatch(words)
        sys.stdout.flush()  # a closed pipe raises here, not at exit
        return status
    except TuitionError as error:
        complain(told(error, words), debug)
        return USAGE if isinstance(error, SettingsError) else FAILURE
    except KeyboardInterrupt as stop:
        with contextlib.suppress(OSError):  # after SIGHUP there is no terminal
            print("\ntuition: stopped", file=sys.stderr)
        return 128 + stop.signal if isinstance(stop, Terminated) else INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        is_bug = not isinstance(error, OSError) or error.errno not in DISK_TROUBLE
        where = " (this is a bug; rerun with --debug for the traceback)" if is_bug else ""
        complain(f"{type(error).__name__}: {text}{where}", debug)
        return FAILURE


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


@contextlib.contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end the verb like Ctrl-C: what was used is billed and the books are closed.

    A second signal ends the process at once. A signal that the caller ignores (nohup) stays ignored. Verbs
    that end in a way of their own (serve, train) replace the handler.
    """

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated(number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    mine = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in names] if mine else []
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def complain(message: str, debug: bool) -> None:
    """One line on stderr, after the traceback if `debug`.

    A message may quote a file; its line ends and terminal control codes are replaced.
    """
    if debug:
        traceback.print_exc()
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in message)
    print(f"tuition: {shown}", file=sys.stderr)


def told(error: TuitionError, words: Sequence[str]) -> str:
    """The text of an error, with options in place of fields."""
    if not isinstance(error, (SettingsError, CapacityError)) or not words or words[0] not in VERBS:
        return str(error)
    from tuition.cli.option_names import at_command_line

    return at_command_line(error, words[0])


def dispatch(words: list[str]) -> int:
    """Import the verb's file and run it. Raises: what the verb raises."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else USAGE
    if words[0] in ("-V", "--version"):
        print(f"tuition {installed_version()}")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        close = get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        print(f"tuition: no verb {verb!r}; {hint}one of: {', '.join(VERBS)}", file=sys.stderr)
        return USAGE
    module = importlib.import_module(f"tuition.cli.{verb}")
    return int(module.run(rest) or 0)


def overview() -> str:
    """The help of `tuition` itself."""
    head = "usage: tuition <verb> [options]\n\nTeach a model, use it, and know what every token costs."
    more = "tuition <verb> --help lists the settings of a verb, each with its unit."
    columns = help_columns()
    return f"{head}\n\n{listed(VERBS, columns)}\n\n{filled(more, columns)}"


def installed_version() -> str:
    from importlib import metadata  # takes 50 ms, and only this needs it

    try:
        return metadata.version("tuition")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
