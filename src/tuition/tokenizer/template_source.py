"""A chat template's source, rewritten so that minijinja renders it as jinja2 does.

In: a template as its model brings it.  Out: the same template in which what minijinja refuses is written in
another way: methods of Python's strings, `'...' % value`, filters of undefined values, `{% generation %}`.
The source is not trusted, so this runs in the worker, under its limits.
"""

import re
from collections.abc import Callable
from typing import Any

_METHODS = (
    "rsplit", "partition", "rpartition", "removeprefix", "removesuffix", "index", "rindex", "zfill", "ljust",
    "rjust", "center", "swapcase", "casefold", "expandtabs", "isdecimal", "isidentifier", "isprintable",
    "istitle",
)  # fmt: skip
"""Methods that minijinja does not have."""
_OF_NOTHING = {"length": "[]", "count": "[]", "first": "[]", "last": "[]", "items": "{}"}
"""Filters that jinja2 applies to an undefined value as to an empty list or mapping, and minijinja refuses."""
_TESTS_OF_NOTHING = ("iterable", "sequence")
_OPENING = re.compile(r"\{\{|\{%|\{#")
_RAW_END = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}")
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|(?P<name>[^\W\d]\w*)|(?P<number>\d[\w.]*)"""
    r"""|(?P<end>[-+]?[%}]\})|(?P<sign>//|\*\*|[=!<>]=|.)""",
    re.DOTALL,
)
_PAIRS = {")": "(", "]": "[", "}": "{"}
_OPERATORS = (
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "elif",
    "set",
    "for",
    "recursive",
    "call",
    "filter",
)
"""Words after which an expression begins, so that a bracket after them calls nothing."""


def as_minijinja(source: str) -> str:
    """The template in which minijinja sees only what it knows."""
    pieces, place = [], 0
    while (opening := _OPENING.search(source, place)) is not None:
        pieces.append(source[place : opening.start()])
        if opening[0] == "{#":
            end = source.find("#}", opening.end())
            code, place = None, len(source) if end < 0 else end + 2
        else:
            code, place = _tokens(source, opening.end())
        if code is None:
            pieces.append(source[opening.start() : place])
            continue
        words = [token for token in code if token.strip() and token not in ("-", "+")]
        if opening[0] == "{%" and words[0] == "raw":
            end_of_raw = _RAW_END.search(source, place)
            place = len(source) if end_of_raw is None else end_of_raw.end()
            pieces.append(source[opening.start() : place])
        elif opening[0] == "{%" and words[0] in ("generation", "endgeneration"):
            pieces.append(_nothing(code))
        else:
            pieces.append(opening[0] + "".join(_rewritten(code)))
    return "".join([*pieces, source[place:]])


def python_methods() -> dict[str, Callable[..., Any]]:
    """What the rewritten source calls, by name."""
    methods = {f"_python_{name}": _method(name) for name in _METHODS}
    return {**methods, "_python_percent": _percent, "_python_percent_tuple": _percent_tuple}


def _method(name: str) -> Callable[..., Any]:
    def call(receiver: Any, *given: Any, **named: Any) -> Any:
        if not isinstance(receiver, str) and not (name == "index" and isinstance(receiver, list | tuple)):
            raise TypeError(f"{type(receiver).__name__} has no method {name}")
        return getattr(receiver, name)(*given, **named)

    return call


def _percent(pattern: str, value: Any) -> str:
    return pattern % value


def _percent_tuple(pattern: str, values: Any) -> str:
    """minijinja hands a tuple over as a list."""
    return pattern % tuple(values)


def _tokens(source: str, place: int) -> tuple[list[str] | None, int]:
    """The tokens of a block or an expression, its end included, and the place after it. None if there is no
    end, which is for minijinja to report."""
    tokens, depth, start = [], 0, place
    while (token := _TOKEN.match(source, place)) is not None:
        text = token[0]
        if token.lastgroup == "end" and depth:  # "}}" closes two brackets
            text = text[0]
        place += len(text)
        tokens.append(text)
        if token.lastgroup == "end" and not depth:
            return tokens, place
        depth += (text in _PAIRS.values()) - (text in _PAIRS)
    return None, max(place, start)


def _nothing(code: list[str]) -> str:
    """A block that prints nothing and trims blanks as `code` does."""
    return f"{{%{code[0] if code[0] in '-+' else ''} if true %}}{{% endif {code[-1]}"


def _rewritten(code: list[str]) -> list[str]:
    done: list[str] = []
    rest = list(reversed(code))
    while rest:
        sign = rest.pop()
        if sign == "|" and (name := _next(rest)) in _OF_NOTHING:
            done.append(f"|default({_OF_NOTHING[name]})")
        elif sign == "is" and _last(done) is not None and _tests_nothing(rest):
            done.append("|default([]) ")
        elif sign == "." and _next(rest) in _METHODS and _next(rest, 1) == "(":
            _call(done, rest)
            continue
        elif sign == "%" and (_last(done) or "")[-1:] in ("'", '"'):
            _format(done, rest)
            continue
        done.append(sign)
    return done


def _call(done: list[str], rest: list[str]) -> None:
    """`receiver.name(` becomes `_python_name(receiver, `."""
    start = _start_of_operand(done)
    name = _take(rest)
    _take(rest)
    done[start:] = [f"_python_{name}", "(", *done[start:]]
    if _next(rest) != ")":
        done.append(", ")


def _format(done: list[str], rest: list[str]) -> None:
    """`'...' % operand` becomes `_python_percent('...', operand)`."""
    while not done[-1].strip():
        done.pop()
    operand = _operand(rest)
    inner = _rewritten(operand)
    is_tuple = operand[0] == "(" and "," in _outer(operand[1:-1])
    pattern = done.pop()
    done += [f"_python_percent{'_tuple' if is_tuple else ''}", "(", pattern, ", ", *inner, ")"]


def _operand(rest: list[str]) -> list[str]:
    """Take an operand with what follows it: attributes, items, calls and filters."""
    taken = [_take(rest)]
    while taken[-1] in ("-", "+"):
        taken.append(_take(rest))
    if taken[-1] in _PAIRS.values():
        _take_to_closing(taken, rest)
    while (following := _next(rest)) in (".", "[", "(", "|"):
        taken.append(_take(rest))
        if following in (".", "|"):
            taken.append(_take(rest))
        else:
            _take_to_closing(taken, rest)
    return taken


def _take_to_closing(taken: list[str], rest: list[str]) -> None:
    depth = 1
    while depth and rest:
        taken.append(rest.pop())
        depth += (taken[-1] in _PAIRS.values()) - (taken[-1] in _PAIRS)


def _outer(tokens: list[str]) -> list[str]:
    """Those of the tokens that are in no further bracket."""
    depth, outer = 0, []
    for token in tokens:
        depth -= token in _PAIRS
        if not depth:
            outer.append(token)
        depth += token in _PAIRS.values()
    return outer


def _start_of_operand(done: list[str]) -> int:
    """Where the operand begins that `done` ends with."""
    place = len(done)
    while True:
        place = _before(done, place)
        if done[place] in _PAIRS:
            place = _opening(done, place)
            before = _before(done, place)
            is_postfix = before >= 0 and (
                done[before] in (")", "]") or (done[before].isidentifier() and done[before] not in _OPERATORS)
                or (done[place] == "[" and done[before][-1:] in ("'", '"', "}"))
            )  # fmt: skip
            if is_postfix:
                place = before + 1
                continue
        before = _before(done, place)
        if before < 0 or done[before] != ".":
            return max(place, 0)
        place = before


def _opening(done: list[str], place: int) -> int:
    depth = 0
    while place >= 0:
        depth += (done[place] in _PAIRS) - (done[place] in _PAIRS.values())
        if not depth:
            break
        place -= 1
    return max(place, 0)


def _before(tokens: list[str], place: int) -> int:
    """The place of the token before `place`, blanks aside; -1 if there is none."""
    place -= 1
    while place >= 0 and not tokens[place].strip():
        place -= 1
    return place


def _last(done: list[str]) -> str | None:
    place = _before(done, len(done))
    return done[place] if place >= 0 else None


def _next(rest: list[str], skip: int = 0) -> str | None:
    """A token that follows, blanks aside; `rest` is in reverse."""
    place = len(rest)
    for _ in range(skip + 1):
        place = _before(rest, place)
    return rest[place] if place >= 0 else None


def _take(rest: list[str]) -> str:
    while rest and not rest[-1].strip():
        rest.pop()
    return rest.pop() if rest else ""


def _tests_nothing(rest: list[str]) -> bool:
    """Whether a test follows that jinja2 applies to an undefined value."""
    return _next(rest, int(_next(rest) == "not")) in _TESTS_OF_NOTHING
