"""Renders one chat template, in a separate process with limits that the template cannot leave.

Run as a program by `template_process.TemplateProcess`, never imported: standard input brings the template and
then conversations, standard output takes texts, as JSON in the parts of `core.worker`.
Three limits hold for every rendering: fuel (instructions), processor time and address space. The last two are
the kernel's: a template that doubles a string in a loop needs little fuel and much memory, and this process
ends rather than the one that serves.
"""

import datetime
import json
import resource
import signal
import sys
from typing import Any

import minijinja

from tuition.core.worker import read_parts, write_parts
from tuition.tokenizer.template_source import as_minijinja, python_methods


class _RaisedByTemplateError(Exception):
    """`raise_exception(...)`, the way of a template to refuse a conversation."""


def _raise_exception(message: str) -> None:
    raise _RaisedByTemplateError(str(message))


class _Clock:
    """The time that a template may write: that of the job, or the present one."""

    def __init__(self) -> None:
        self.now: float | None = None

    def strftime(self, pattern: str) -> str:
        """In local time, as transformers does."""
        now = datetime.datetime.now() if self.now is None else datetime.datetime.fromtimestamp(self.now)
        return now.strftime(pattern)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None,
            separators: Any = None, sort_keys: bool = False) -> str:  # fmt: skip
    chosen = tuple(separators) if separators else None
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=chosen, sort_keys=sort_keys, default=list
    )


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """As in jinja2, which keeps a line's end at the end of the text."""
    margin = width if isinstance(width, str) else " " * width
    head, *lines = f"{text}\n".splitlines()
    rest = [margin + line if line or blank else line for line in lines]
    return "\n".join([margin + head if first else head, *rest])


def _is_iterable(value: Any) -> bool:
    return isinstance(value, str | list | dict | tuple)


def _environment(source: str, clock: _Clock) -> minijinja.Environment:
    """As transformers sets jinja2 up: blocks trimmed, no escaping, Python's methods on strings, lists and
    mappings."""
    env = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, pycompat=True, debug=False)
    env.auto_escape_callback = lambda name: False
    env.add_global("raise_exception", _raise_exception)
    env.add_global("strftime_now", clock.strftime)
    env.add_filter("tojson", _tojson)
    env.add_filter("indent", _indent)
    for test in ("iterable", "sequence"):  # here None is neither, and a text and a mapping are both
        env.add_test(test, _is_iterable)
    for name, function in python_methods().items():
        env.add_global(name, function)
    env.add_template("chat", as_minijinja(source))
    return env


def _receive() -> tuple[Any, int] | None:
    parts = read_parts(sys.stdin.buffer)
    return None if parts is None else (json.loads(parts[0]), len(parts[0]))


def _send(reply: dict[str, Any]) -> None:
    write_parts(sys.stdout.buffer, [json.dumps(reply).encode()])


def _limit(growth_bytes: int, cpu_s: float) -> None:
    """Allow this much more address space and processor time, from here on."""
    try:
        with open("/proc/self/statm") as statm:
            now = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(
            resource.RLIMIT_AS, (now + growth_bytes, resource.getrlimit(resource.RLIMIT_AS)[1])
        )
    except (OSError, ValueError):
        pass  # not Linux: time and fuel still hold
    signal.setitimer(signal.ITIMER_PROF, cpu_s)  # the default action of its signal ends the process


def _unlimit() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    try:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    except (OSError, ValueError):
        pass


def _render_all(env: minijinja.Environment, job: dict[str, Any], size: int) -> dict[str, Any]:
    """Every beginning of the conversation, each with its own limits."""
    texts = []
    for num_messages, add_generation_prompt in job["beginnings"]:
        variables = {
            **job["variables"],
            "messages": job["variables"]["messages"][:num_messages],
            "add_generation_prompt": add_generation_prompt,
        }
        _limit(job["growth_bytes"] + 16 * size, job["cpu_s"])
        reply = _render(env, variables, job["fuel"], job["max_bytes"])
        _unlimit()
        if "error" in reply:
            return reply
        texts.append(reply["text"])
    return {"texts": texts}


def _render(
    env: minijinja.Environment, variables: dict[str, Any], fuel: int, max_bytes: int
) -> dict[str, Any]:
    env.fuel = fuel
    try:
        text = env.render_template("chat", **variables)
    except _RaisedByTemplateError as error:
        return {"error": "raised", "message": str(error)[:2_000]}
    except MemoryError:
        return {"error": "memory", "message": "too much memory"}
    except Exception as error:
        kind = "fuel" if "fuel" in str(error) else "failed"
        return {"error": kind, "message": str(error)[:2_000]}
    if len(text) > max_bytes or len(text.encode("utf-8", "replace")) > max_bytes:
        return {"error": "output", "message": f"more than {max_bytes:,} bytes of text"}
    return {"text": text}


def main() -> None:
    """Take the template, then render until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    first = _receive()
    if first is None:
        return
    setup, size = first
    clock = _Clock()
    _limit(setup["growth_bytes"] + 16 * size, setup["cpu_s"])
    try:
        env = _environment(setup["source"], clock)
    except Exception as error:
        _unlimit()
        _send({"error": "syntax", "message": str(error)[:2_000]})
        return
    _unlimit()
    _send({"text": ""})
    while (received := _receive()) is not None:
        job, size = received
        clock.now = job["now"]
        _send(_render_all(env, job, size))


if __name__ == "__main__":
    main()
