"""Settings and data at the start of a run, and whether a resume can give the same bits.

In: settings, digests, the machine as it is now.  Out: a JSON header that every checkpoint carries, and the
differences between two of them.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuition.core.errors import SettingsError
from tuition.core.settings import from_table, read_table, to_table
from tuition.runtime.device import Precision, describe_machine
from tuition.train.recipe import Recipe
from tuition.train.settings import TrainSettings

FREE_FIELDS = ("threads", "checkpoints", "evaluation", "budget")
"""Settings that may change between a run and its resume; `evaluation` is the recipe's. `threads` and `budget`
then change the bits, which `why_not_exact` says."""


class OtherDataError(SettingsError):
    """The data has changed since the run began, so the run cannot be resumed."""


def settings_table(settings: TrainSettings, recipe: Recipe) -> dict[str, Any]:
    """The settings of the run and of its recipe, side by side as on the command line."""
    return {"recipe": recipe.name} | to_table(settings) | to_table(recipe.settings)


def stored_table(path: Path, recipe: Recipe) -> dict[str, Any]:
    """The settings of a stored run; missing ones get the present defaults.

    Raises: SettingsError when the file is of another recipe, or of another version of this program.
    """
    table = read_table(path)
    name = table.pop("recipe", recipe.name)
    if name != recipe.name:
        raise SettingsError("recipe", got=recipe.name, wanted=f"{name}, as in {path.parent.name}")
    shared = {field.name for field in dataclasses.fields(TrainSettings)}
    settings = from_table(TrainSettings, {key: value for key, value in table.items() if key in shared})
    own = from_table(type(recipe.settings), {key: value for key, value in table.items() if key not in shared})
    return {"recipe": name} | to_table(settings) | to_table(own)


def make_header(settings: dict[str, Any], precision: Precision, digests: Mapping[str, str]) -> dict[str, Any]:
    """Plain JSON values; `settings` is a `settings_table`."""
    return {
        "settings": settings,
        **digests,
        "precision": str(precision.dtype),
        "machine": describe_machine(),
    }


def changed_settings(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings by dotted name, before and now, that differ and must not when a run is resumed."""
    before, now = _flat(old), _flat(new)
    return {
        name: (before.get(name), now.get(name))
        for name in sorted(before.keys() | now.keys())
        if name.split(".")[0] not in FREE_FIELDS and before.get(name) != now.get(name)
    }


def check_same_data(old: dict[str, Any], new: dict[str, Any], digests: Mapping[str, str]) -> None:
    """Refuse to resume with other data: another corpus or tokenizer. Raises: OtherDataError."""
    for name in digests:
        before, now = str(old.get(name)), str(new[name])
        if before != now:
            wanted = f"{before[:12]}, as the run that is resumed began; or leave out --resume"
            raise OtherDataError(name, got=f"digest {now[:12]}", wanted=wanted)


def why_not_exact(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Reasons why a resume cannot claim the same bits as a run that was never stopped; none: it can."""
    reasons = []
    if old["precision"] != new["precision"]:
        reasons.append(f"precision {old['precision']} -> {new['precision']}")
    for name in sorted(old["machine"].keys() | new["machine"].keys()):
        before, now = old["machine"].get(name), new["machine"].get(name)
        if before != now:
            changed = "other CPU instructions" if name == "cpu_flags" else f"{name} {before} -> {now}"
            reasons.append(changed)
    if "budget" in new["settings"]:
        reasons.append("the clock of a budget decides the learning rate")
    return reasons


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
