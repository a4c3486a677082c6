"""The task families by name."""

from tuition.core.errors import SettingsError
from tuition.evals.tasks.canonical import CANONICAL
from tuition.evals.tasks.family import Family, Part, Row
from tuition.evals.tasks.orders import ORDERS
from tuition.evals.tasks.problems import PROBLEMS
from tuition.evals.tasks.tools import TOOLS

FAMILIES: dict[str, Family] = {family.name: family for family in (ORDERS, PROBLEMS, TOOLS, CANONICAL)}


def family_of(name: str) -> Family:
    """The family of this name. Raises: SettingsError."""
    if name not in FAMILIES:
        raise SettingsError("family", got=name, wanted=f"one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def make_family(name: str, rows: int, seed: int, part: Part) -> list[Row]:
    """`rows` conversations of a family; no template or entity of one part is in the other."""
    return family_of(name).rows(rows, seed, part)
