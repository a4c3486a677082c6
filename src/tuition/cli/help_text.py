"""Help text that fits the terminal: paragraphs and lists, wrapped between words.

In: text, and how many columns there are.  Out: lines. Options are described in `field_help`.
"""

import itertools
import shutil
import textwrap
from collections.abc import Mapping

WIDEST_HELP = 110
"""Columns of help at most: on a wider terminal the parser puts its boxes side by side, out of their order."""


def help_columns() -> int:
    """Columns that help may use."""
    return min(shutil.get_terminal_size().columns, WIDEST_HELP)


def filled(text: str, columns: int) -> str:
    """A description with each paragraph wrapped; indented lines (examples, tables) stay as they are."""
    lines: list[str] = []
    for is_prose, group in itertools.groupby(text.splitlines(), lambda line: line[:1] not in ("", " ")):
        block = list(group)
        lines += _wrapped(" ".join(block), columns) if is_prose else block
    return "\n".join(lines)


def listed(entries: Mapping[str, str], columns: int) -> str:
    """Names and what each means, one below the other; a long meaning continues below its beginning."""
    width = max(map(len, entries)) + 4
    lines = []
    for name, meaning in entries.items():
        first, *more = _wrapped(meaning, max(columns - width, 20))
        lines += [f"{f'  {name}':<{width}}{first}", *(" " * width + line for line in more)]
    return "\n".join(lines)


def _wrapped(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False)
