"""What a run was started with, and whether going on with it can give the same bits.

In: settings, digests, the machine as it is now.  Out: a JSON header that every checkpoint carries, and the
differences between two of them.
"""

from typing import Any

from tuition.core.errors import SettingsError
from tuition.core.settings import to_table
from tuition.runtime.device import Precision, describe_machine
from tuition.train.settings import TrainSettings

FREE_FIELDS = ("threads", "checkpoints", "evaluation", "budget")
"""Settings that may change between a run and its resume. `threads` and `budget` then change the bits, which
`why_not_exact` says."""


class OtherTextError(SettingsError):
    """The text is no longer the one that a run was taught with, so that it cannot go on."""


def make_header(
    settings: TrainSettings, precision: Precision, corpus_digest: str, tokenizer_digest: str
) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        "settings": to_table(settings),
        "corpus": corpus_digest,
        "tokenizer": tokenizer_digest,
        "precision": str(precision.dtype),
        "machine": describe_machine(),
    }


def changed_settings(old: TrainSettings, new: TrainSettings) -> dict[str, tuple[Any, Any]]:
    """Settings by dotted name, before and now, that differ and must not when a run goes on."""
    before, now = _flat(to_table(old)), _flat(to_table(new))
    return {
        name: (before.get(name), now.get(name))
        for name in sorted(before.keys() | now.keys())
        if name.split(".")[0] not in FREE_FIELDS and before.get(name) != now.get(name)
    }


def check_same_text(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to go on with another corpus or tokenizer. Raises: OtherTextError."""
    for name in ("corpus", "tokenizer"):
        if old[name] != new[name]:
            wanted = f"{old[name][:12]}, as the run that is resumed began"
            raise OtherTextError(
                name, got=f"digest {new[name][:12]}", wanted=f"{wanted}; or leave out resume"
            )


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
