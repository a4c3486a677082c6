"""adapter_config.json of peft. Each setting is applied, or refused by its name. No torch.

In: the object of the file.  Out: `AdapterSettings`, rank and alpha of each module; and back.
Source: https://huggingface.co/docs/peft/package_reference/lora.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuition.core.errors import ModelError
from tuition.model.adapter_settings import AdapterSettings
from tuition.model.fields import Fields

CONFIG = "adapter_config.json"
_HARMLESS = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "auto_mapping", "peft_version",
    "inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern",
    "init_lora_weights",
    # which matrices: the file of weights tells
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    # of the base's own layout, or of how A and B were drawn
    "fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config",
}  # fmt: skip
"""Keys that are honored, or that change nothing once A and B are known. Any other key must have a neutral
value."""
_NEUTRAL = (None, False, {}, [], "none")
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways of initializing A and B that also subtract their product from the base."""
_MOST_PATTERNS, _LONGEST_PATTERN, _MOST_REPEATS = 4_096, 200, 3


def read_settings(path: Path, config: Mapping[str, Any]) -> AdapterSettings:
    """The settings that all matrices share. Raises: ModelError for damaged or unsupported settings."""
    _refuse_what_we_cannot_compute(path, config)
    fields = Fields(path, config)
    dropout = 0.0 if config.get("lora_dropout") in (None, 0) else fields.positive("lora_dropout")
    if dropout >= 1:
        raise fields.fail("lora_dropout", "0 or more, below 1")
    return AdapterSettings(
        rank=fields.count("r", 8),
        alpha=fields.positive("lora_alpha", 8.0),
        dropout=dropout,
        scale="rank-stabilized" if fields.flag("use_rslora", False) else "plain",
    )


class Patterns:
    """Rank and alpha of each module, chosen as in peft: those of the first pattern that matches, else the
    default."""

    def __init__(self, path: Path, config: Mapping[str, Any], settings: AdapterSettings) -> None:
        """Raises: ModelError."""
        self._settings = settings
        self._ranks, self._alphas = (
            _patterns(path, config, key) for key in ("rank_pattern", "alpha_pattern")
        )

    def rank(self, module: str) -> int:
        return int(_chosen(self._ranks, module, self._settings.rank))

    def alpha(self, module: str) -> float:
        return float(_chosen(self._alphas, module, self._settings.alpha))


def config_of(
    settings: AdapterSettings,
    base: str | None,
    pairs: Mapping[str, tuple[int, float]],
    every: Iterable[str],
    *,
    is_turned: bool,
) -> dict[str, Any]:
    """The object for adapter_config.json.

    `pairs`: rank and alpha by module; `every`: all modules that could be adapted; `is_turned`: the base
    stores its matrices as (in, out).
    """
    ((rank, _),) = Counter(rank for rank, _ in pairs.values()).most_common(1)
    ((alpha, _),) = Counter(alpha for _, alpha in pairs.values()).most_common(1)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _number(alpha),
        "lora_dropout": settings.dropout,
        "use_rslora": settings.scale == "rank-stabilized",
        "fan_in_fan_out": is_turned,
        "target_modules": _target_modules(pairs, every),
        "rank_pattern": {module: own for module, (own, _) in pairs.items() if own != rank},
        "alpha_pattern": {module: _number(own) for module, (_, own) in pairs.items() if own != alpha},
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
    }


def _refuse_what_we_cannot_compute(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise _unsupported(path, config, "peft_type", "'LORA', the only kind supported")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise _unsupported(path, config, "task_type", "'CAUSAL_LM'")
    for key, value in config.items():
        if key not in _HARMLESS and value not in _NEUTRAL:
            raise _unsupported(path, config, key, "it left out: this setting is not supported")
    drawn = config.get("init_lora_weights")
    if isinstance(drawn, str) and drawn.lower().startswith(_CHANGE_THE_BASE):
        wanted = (
            "an adapter of the unchanged base: save it with peft's path_initial_model_for_weight_conversion"
        )
        raise _unsupported(path, config, "init_lora_weights", wanted)


def _unsupported(path: Path, config: Mapping[str, Any], key: str, wanted: str) -> ModelError:
    got = repr(config.get(key))[:80]
    return ModelError(path, f"{key[:60]} is {got}, wanted {wanted}", way_out="or merge it with peft first")


def _patterns(path: Path, config: Mapping[str, Any], key: str) -> list[tuple[re.Pattern[str], float]]:
    """Patterns over module names, with their values, in their order."""
    table = config.get(key) or {}
    if not isinstance(table, dict) or len(table) > _MOST_PATTERNS:
        raise ModelError(path, f"{key} is no table of patterns", way_out="correct the file")
    found = []
    fields = Fields(path, table)
    for pattern in table:
        value = float(fields.count(pattern)) if key == "rank_pattern" else fields.positive(pattern)
        # a repeated group can take time that doubles with each letter of a name
        is_slow = re.search(r"\)[*+?{]", pattern) or len(re.findall(r"[*+?{]", pattern)) > _MOST_REPEATS
        try:
            if is_slow or len(pattern) > _LONGEST_PATTERN:
                raise re.error("too many repetitions, or too long")
            found.append((re.compile(rf"(.*\.)?({pattern})$"), value))
        except re.error as error:
            problem = f"{key} has the pattern {pattern[:60]!r} ({error})"
            raise ModelError(path, problem, way_out="write out the names of the modules") from error
    return found


def _chosen(patterns: list[tuple[re.Pattern[str], float]], module: str, default: float) -> float:
    return next((value for pattern, value in patterns if pattern.match(module)), default)


def _target_modules(adapted: Iterable[str], every: Iterable[str]) -> list[str]:
    """The last parts of the names where all matrices with them are adapted, else the whole names."""
    adapted = {*adapted}
    ends = {module.rpartition(".")[2] for module in adapted}
    covered = {module for module in every if module.rpartition(".")[2] in ends}
    return sorted(ends if covered == adapted else adapted)


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value
