"""Adapters as files, in the format of peft: adapter_config.json and adapter_model.safetensors. No torch.

In: a folder and the base it belongs to.  Out: an `Adapter`, and back. Some bases
store several matrices as one (phi3's qkv_proj, gpt2's c_attn). There an adapter has one A for all parts, and
each part has its rows of B.
Source: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tuition.core.durable import publish_folder, write_json
from tuition.core.errors import ModelError, ShapeError
from tuition.model.adapter import Adapter, Pair
from tuition.model.adapter_config import CONFIG, Patterns, config_of, read_settings
from tuition.model.adapter_settings import GROUPS, AdapterSettings, adaptable
from tuition.model.folder import ModelFolder
from tuition.model.manifest import MANIFEST, verify_manifest, write_manifest
from tuition.model.mapped import MappedFile, inside
from tuition.model.names import Place
from tuition.model.safetensors_file import SafetensorsFile

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
_Modules = dict[str, dict[str, Place]]
"""Modules of the base's files, and which of our tensors each holds, and where."""


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk, as its config describes it. Of the weights, only names, shapes and offsets are
    read."""

    path: Path
    settings: AdapterSettings
    base: str | None
    """Name of the base that the adapter gives."""
    base_digest: str | None
    config: Mapping[str, Any]
    manifest: Mapping[str, Any] | None
    """`tuition.json`; None for adapters that other programs wrote."""
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
    """Read config and manifest of an adapter. Raises: ModelError if a file is missing, damaged, changed since
    it was published, or not supported."""
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
    told = (manifest or {}).get("base_digest")
    return AdapterFolder(
        folder,
        read_settings(folder / CONFIG, config),
        base=_text((manifest or {}).get("base")) or _text(config.get("base_model_name_or_path")),
        base_digest=_text(told),
        config=config,
        manifest=manifest,
        file=SafetensorsFile(mapped(WEIGHTS)),
    )


def open_adapter(folder: Path | AdapterFolder, base: ModelFolder) -> Adapter:
    """The adapter in `folder`, with the names of `base`.

    Raises: ModelError, also where its matrices are not those of `base`. This does not check that `base` has
    the weights that the adapter was trained with: the caller knows their digest and calls `require_base`.
    """
    found = folder if isinstance(folder, AdapterFolder) else read_adapter_folder(folder)
    modules, path = _modules(base), found.path
    parts: dict[str, dict[str, np.ndarray]] = {}
    for theirs in found.file.entries:
        match = _PART.fullmatch(theirs)
        module = match["module"].removeprefix(_PREFIX) if match else None
        if match is None or module not in modules:
            problem = f"holds {theirs[:120]!r}, which is no matrix of a layer of {base.path}"
            raise ModelError(path, problem, way_out="use it with the base that it was trained for")
        parts.setdefault(module, {})[match["part"]] = _array(found.file, theirs)
    if not parts:
        raise ModelError(path, "holds no matrices", way_out="fetch it again")
    patterns = Patterns(path / CONFIG, found.config, found.settings)
    joined: dict[str, Pair] = {}
    for module, pair in parts.items():
        if len(pair) != 2:
            raise ModelError(path, f"lacks A or B of {module}", way_out="fetch it again")
        if len(pair["A"]) != patterns.rank(module):
            problem = f"gives {module} the rank {patterns.rank(module)}, its A has {len(pair['A'])} rows"
            raise ModelError(path / CONFIG, problem, way_out="fetch the adapter again")
        joined[module] = (pair["A"], pair["B"])
    alphas = {module: patterns.alpha(module) for module in joined}
    try:
        adapter = _apart(found.settings, joined, alphas, modules)
        adapter.check_shapes(base.shape)
    except ShapeError as error:
        way_out = f"use it with the base that it was trained for, not {base.path}"
        raise ModelError(path, str(error), way_out=way_out) from error
    try:
        adapter.check_numbers()
    except ShapeError as error:
        raise ModelError(path, str(error), way_out="fetch it again, or train it again") from error
    return replace(adapter, base=found.base, base_digest=found.base_digest)


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
    modules = _modules(base)
    joined, alphas = _together(adapter, modules)
    config = config_of(
        adapter.settings,
        adapter.base,
        {module: (len(down), alphas[module]) for module, (down, _) in joined.items()},
        modules,
        is_turned=base.family.layout.turned,
    )
    tensors = {}
    for module, (down, up) in joined.items():
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(down, np.float32)
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(up, np.float32)

    def fill(staging: Path) -> None:
        write_json(staging / CONFIG, config)
        save_file(tensors, staging / WEIGHTS, metadata={"format": "pt"})
        told = {"kind": "adapter", "base": adapter.base, "base_digest": adapter.base_digest}
        digest = _apart(adapter.settings, joined, alphas, modules).digest()  # of the stored values
        write_manifest(staging, {**(manifest or {}), **told}, digest)

    return publish_folder(folder, fill)


def _modules(base: ModelFolder) -> _Modules:
    places, modules = base.family.layout.places(base.shape), {}
    for name in adaptable(base.shape):
        module = places[name].name.removesuffix(".weight")
        modules.setdefault(module, {})[name] = places[name]
    return modules


def _apart(
    settings: AdapterSettings, joined: Mapping[str, Pair], alphas: Mapping[str, float], modules: _Modules
) -> Adapter:
    """An adapter of our tensors: each part of a joined matrix gets its rows of B, and of A what these use.
    Raises: ShapeError where B has other rows than the module."""
    pairs: dict[str, Pair] = {}
    own: dict[str, float] = {}
    for module, parts in modules.items():
        if module not in joined:
            continue
        down, up = joined[module]
        outputs = sum(place.count for place in parts.values())
        if len(up) != outputs:
            where = f"adapter of another base, {next(iter(parts))}"
            raise ShapeError(where, wanted=f"B ({outputs}, rank)", got=up.shape)
        scale = settings.scale_for(len(down), alphas[module])
        for name, place in parts.items():
            rows = up[place.first : place.first + place.count]
            if up.any() and not rows.any():
                continue  # of a joined matrix only other parts are adapted
            pairs[name] = _used(down, rows)
            rank = len(pairs[name][0])
            alpha = alphas[module] if rank == len(down) else scale / settings.scale_for(rank, 1.0)
            if alpha != settings.alpha:
                own[name] = alpha
    found = {name.split(".")[-2] for name in pairs}
    matrices = tuple(part for part in GROUPS["all-linear"] if part in found)
    ranks = Counter(len(down) for down, _ in pairs.values()).most_common(1) or [(settings.rank, 0)]
    return Adapter(replace(settings, rank=ranks[0][0], matrices=matrices), pairs, own)


def _used(down: np.ndarray, up: np.ndarray) -> Pair:
    """A and B without what adds nothing: in the A of a joined matrix, parts may have a place of their own."""
    used = up.any(axis=0)
    is_whole = used.all() or not used.any()
    return (down, up) if is_whole else (down[used], np.ascontiguousarray(up[:, used]))


def _together(adapter: Adapter, modules: _Modules) -> tuple[dict[str, Pair], dict[str, float]]:
    """A and B of each module, and its alpha. If parts have different As, these are stacked in the A of the
    module, and B has zeros where a part does not use them."""
    joined: dict[str, Pair] = {}
    alphas: dict[str, float] = {}
    for module, parts in modules.items():
        adapted = [name for name in parts if name in adapter.pairs]
        if not adapted:
            continue
        first = adapter.pairs[adapted[0]][0]
        shares_a = all(np.array_equal(adapter.pairs[name][0], first) for name in adapted)
        downs = [first] if shares_a else [adapter.pairs[name][0] for name in adapted]
        rank, scale = sum(map(len, downs)), adapter.scale_of(adapted[0])
        up = np.zeros((sum(place.count for place in parts.values()), rank), np.float32)
        start = 0
        for name in adapted:
            own, place = adapter.pairs[name][1], parts[name]
            # a module has one scale: the ratio of a part's own scale to it goes into its B
            scaled = own * np.float32(adapter.scale_of(name) / scale) if len(parts) > 1 else own
            up[place.first : place.first + place.count, start : start + own.shape[1]] = scaled
            start += 0 if shares_a else own.shape[1]
        joined[module] = (np.concatenate(downs), up)
        has_own_rank = rank != len(first)
        alphas[module] = (
            scale / adapter.settings.scale_for(rank, 1.0)
            if has_own_rank
            else adapter.alphas.get(adapted[0], adapter.settings.alpha)
        )
    return joined, alphas


def _array(file: SafetensorsFile, name: str) -> np.ndarray:
    """One tensor as float32."""
    entry, content = file.entries[name], file.content(name)
    if len(entry.shape) != 2:
        raise ModelError(file.file.path, f"{name[:120]!r} is no matrix", way_out="fetch it again")
    if entry.dtype == "BF16":
        values = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(content, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[entry.dtype])
    with np.errstate(over="ignore"):  # an infinity is refused with all other numbers
        return values.astype(np.float32).reshape(entry.shape)


def _text(value: object) -> str | None:
    """A name that can be shown at a terminal."""
    return value if isinstance(value, str) and 0 < len(value) <= 1_024 and value.isprintable() else None
