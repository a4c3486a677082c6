"""Judges a reply of kind regex.  In: an item and a reply.  Out: whether the pattern is found.

Some patterns need a time that doubles with each letter, so this runs as a user's function does: in a process
with limits, see `function_process`.
"""

import re
from typing import Any


def is_found(item: dict[str, Any], reply: str) -> bool:
    return re.search(item["target"], reply) is not None
