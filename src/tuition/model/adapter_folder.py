"""Adapters as files, in the format of peft: adapter_config.json and adapter_model.safetensors. No torch.

In: a folder and the base it belongs to.  Out: an `Adapter`, and back. What peft computes and we do not is
refused by the name of its setting.
Source: https://huggingface.co/docs/peft/package_reference/lora and .../developer_guides/checkpoint.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tuition.core.durable import publish_folder, write_json
from tuition.core.errors import ModelError, ShapeError
from tuition.model.adapter import GROUPS, Adapter, AdapterSettings, Pair, adaptable
from tuition.model.fields import Fields
from tuition.model.folder import ModelFolder
from tuition.model.manifest import MANIFEST, verify_manifest, write_manifest
from tuition.model.mapped import MappedFile, inside
from tuition.model.names import hugging_face_name
from tuition.model.safetensors_file import SafetensorsFile

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
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
"""Keys that are honored, or that change nothing once A and B are known. Any other key must say nothing."""
_NEUTRAL = (None, False, {}, [], "none")
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways of drawing A and B that also take their product out of the base."""
_MOST_PATTERNS, _LONGEST_PATTERN, _MOST_REPEATS = 4_096, 200, 3


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk, as its config describes it. Nothing of the weights but their places is read."""

    path: Path
    settings: AdapterSettings
    base: str | None
    """Name of the base, as the adapter gives it."""
    base_digest: str | None
    config: Mapping[str, Any]
    manifest: Mapping[str, Any] | None
    """`tuition.json`; None for adapters of others."""
    file: SafetensorsFile

    @property
    def num_parameters(self) -> int:
        return sum(int(np.prod(entry.shape)) for entry in self.file.entries.values())

    @property
    def num_bytes(self) -> int:
        return self.file.file.size


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter and not a model."""
    return (path / CONFIG).is_file()


def read_adapter_folder(folder: Path, *, verify: bool = True) -> AdapterFolder:
    """Read what an adapter says of itself. Raises: ModelError for what is missing, damaged, changed since it
    was published, or not supported."""
    files: dict[str, MappedFile] = {}

    def mapped(name: str) -> MappedFile:
        if name not in files:
            files[name] = MappedFile(inside(folder, name))
        return files[name]

    if not is_adapter(folder):
        raise ModelError(folder, f"has no {CONFIG}", way_out="give the folder that peft or tuition wrote")
    if not (folder / WEIGHTS).exists():
        way_out = "save it with peft's save_pretrained, which writes safetensors"
        raise ModelError(folder, f"has no {WEIGHTS}", way_out=way_out)
    manifest = mapped(MANIFEST).json_object() if (folder / MANIFEST).exists() else None
    if manifest is not None and verify:
        verify_manifest(folder, manifest, mapped)
    config = mapped(CONFIG).json_object()
    _refuse_what_we_cannot_compute(folder / CONFIG, config)
    told = (manifest or {}).get("base_digest")
    return AdapterFolder(
        folder,
        _settings(folder / CONFIG, config),
        base=_text((manifest or {}).get("base")) or _text(config.get("base_model_name_or_path")),
        base_digest=_text(told),
        config=config,
        manifest=manifest,
        file=SafetensorsFile(mapped(WEIGHTS)),
    )


def open_adapter(folder: Path | AdapterFolder, base: ModelFolder) -> Adapter:
    """The adapter in `folder`, with the names of `base`.

    Raises: ModelError, also where its matrices are not those of `base`. Whether the weights of `base` are
    those it was trained with is for the caller to say, who knows their digest: see `require_base`.
    """
    found = folder if isinstance(folder, AdapterFolder) else read_adapter_folder(folder)
    places = {module_name(name): name for name in adaptable(base.shape)}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for theirs in found.file.entries:
        match = _PART.fullmatch(theirs)
        module = match["module"].removeprefix(_PREFIX) if match else None
        if match is None or module not in places:
            problem = (
                f"holds {theirs[:120]!r}, which is no matrix of attention or feed-forward in {base.path}"
            )
            raise ModelError(found.path, problem, way_out="use it with the base that it was trained for")
        parts.setdefault(module, {})[match["part"]] = _array(found.file, theirs)
    pairs: dict[str, Pair] = {}
    for module, name in places.items():
        if module in parts:
            if len(parts[module]) != 2:
                raise ModelError(found.path, f"lacks A or B of {module}", way_out="fetch it again")
            pairs[name] = (parts[module]["A"], parts[module]["B"])
    if not pairs:
        raise ModelError(found.path, "holds no matrices", way_out="fetch it again")
    adapter = _with_patterns(found, pairs)
    try:
        adapter.check(base.shape)
    except ShapeError as error:
        way_out = f"use it with the base that it was trained for, not {base.path}"
        raise ModelError(found.path, str(error), way_out=way_out) from error
    return adapter


def require_base(adapter: Adapter, base: ModelFolder, digest: str) -> None:
    """Raises: ModelError where the adapter was trained with other weights than those with `digest`."""
    if adapter.base_digest is not None and adapter.base_digest != digest:
        named = "" if adapter.base is None else f" ({adapter.base})"
        problem = f"has weights {digest[:12]}..., the adapter was trained with {adapter.base_digest[:12]}..."
        raise ModelError(base.path, problem + named, way_out="use the base that it was trained with")


def save_adapter(
    folder: Path, adapter: Adapter, base: ModelFolder, manifest: Mapping[str, Any] | None = None
) -> Path:
    """Publish `folder` in one durable step; it must not exist yet. peft opens it unchanged.

    `manifest` is lineage, recipe and bill, plain JSON, kept in `tuition.json` beside the digests.
    Raises: ShapeError where the adapter does not fit `base`; ModelError when the folder exists.
    """
    if folder.exists():
        raise ModelError(folder, "exists already", way_out="choose another name or remove it first")
    adapter.check(base.shape)
    config = _config(adapter, base)
    tensors = {}
    for name, (down, up) in adapter.pairs.items():
        module = _PREFIX + module_name(name)
        tensors[f"{module}.lora_A.weight"] = np.ascontiguousarray(down, np.float32)
        tensors[f"{module}.lora_B.weight"] = np.ascontiguousarray(up, np.float32)

    def fill(staging: Path) -> None:
        write_json(staging / CONFIG, config)
        save_file(tensors, staging / WEIGHTS, metadata={"format": "pt"})
        told = {"kind": "adapter", "base": adapter.base, "base_digest": adapter.base_digest}
        write_manifest(staging, {**(manifest or {}), **told}, adapter.digest())

    return publish_folder(folder, fill)


def module_name(name: str) -> str:
    """`layers.3.mlp.up.weight` -> `model.layers.3.mlp.up_proj`."""
    return hugging_face_name(name).removesuffix(".weight")


def _refuse_what_we_cannot_compute(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise _unsupported(path, config, "peft_type", "'LORA', the only kind supported")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise _unsupported(path, config, "task_type", "'CAUSAL_LM'")
    for key, value in config.items():
        if key not in _HARMLESS and value not in _NEUTRAL:
            raise _unsupported(path, config, key, "nothing there: what it asks for is not supported")
    drawn = config.get("init_lora_weights")
    if isinstance(drawn, str) and drawn.lower().startswith(_CHANGE_THE_BASE):
        wanted = (
            "an adapter of the unchanged base: save it with peft's path_initial_model_for_weight_conversion"
        )
        raise _unsupported(path, config, "init_lora_weights", wanted)


def _unsupported(path: Path, config: Mapping[str, Any], key: str, wanted: str) -> ModelError:
    got = repr(config.get(key))[:80]
    return ModelError(path, f"{key[:60]} is {got}, wanted {wanted}", way_out="or merge it with peft first")


def _settings(path: Path, config: Mapping[str, Any]) -> AdapterSettings:
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


def _with_patterns(found: AdapterFolder, pairs: Mapping[str, Pair]) -> Adapter:
    """The adapter, with rank and alpha of each matrix as peft takes them from the patterns."""
    path, settings = found.path / CONFIG, found.settings
    ranks, alphas = (_patterns(path, found.config, key) for key in ("rank_pattern", "alpha_pattern"))
    own: dict[str, float] = {}
    for name, (down, _) in pairs.items():
        rank = _chosen(ranks, module_name(name), settings.rank)
        if len(down) != rank:
            problem = f"gives {module_name(name)} the rank {rank:g}, its A has {len(down)} rows"
            raise ModelError(path, problem, way_out="fetch the adapter again")
        alpha = float(_chosen(alphas, module_name(name), settings.alpha))
        if alpha != settings.alpha:
            own[name] = alpha
    parts = {name.split(".")[-2] for name in pairs}
    matrices = tuple(part for part in GROUPS["all-linear"] if part in parts)
    return Adapter(replace(settings, matrices=matrices), pairs, own, found.base, found.base_digest)


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


def _config(adapter: Adapter, base: ModelFolder) -> dict[str, Any]:
    """adapter_config.json."""
    settings = adapter.settings
    ranks = {module_name(name): len(down) for name, (down, _) in adapter.pairs.items()}
    ((rank, _),) = Counter(ranks.values()).most_common(1)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _number(settings.alpha),
        "lora_dropout": settings.dropout,
        "use_rslora": settings.scale == "rank-stabilized",
        "target_modules": _target_modules(ranks, (module_name(name) for name in adaptable(base.shape))),
        "rank_pattern": {module: count for module, count in ranks.items() if count != rank},
        "alpha_pattern": {module_name(name): _number(alpha) for name, alpha in adapter.alphas.items()},
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
    }


def _target_modules(adapted: Iterable[str], every: Iterable[str]) -> list[str]:
    """The last parts of the names where all matrices with them are adapted, else the whole names."""
    adapted = {*adapted}
    ends = {module.rpartition(".")[2] for module in adapted}
    covered = {module for module in every if module.rpartition(".")[2] in ends}
    return sorted(ends if covered == adapted else adapted)


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _array(file: SafetensorsFile, name: str) -> np.ndarray:
    """One tensor as float32."""
    entry, content = file.entries[name], file.content(name)
    if len(entry.shape) != 2:
        raise ModelError(file.file.path, f"{name[:120]!r} is no matrix", way_out="fetch it again")
    if entry.dtype == "BF16":
        values = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(content, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[entry.dtype])
    return values.astype(np.float32).reshape(entry.shape)


def _text(value: object) -> str | None:
    """A name that can be shown at a terminal."""
    return value if isinstance(value, str) and 0 < len(value) <= 1_024 and value.isprintable() else None
