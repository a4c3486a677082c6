"""The model that training begins from: found by name, opened, loaded, and saved again with other weights.

In: settings with a registered name, `name@version`, a folder or a GGUF file.  Out: a `Base`. Recipes that
begin from a model share it, whatever they teach. An adapter is a base too: its own base stays as it is, and
its matrices are taught further.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tuition.core.durable import write_json
from tuition.core.errors import ModelError, SettingsError
from tuition.core.units import format_bytes
from tuition.model.adapter import Adapter
from tuition.model.adapter_folder import is_adapter, open_adapter, require_base, save_adapter
from tuition.model.adapter_settings import AdapterSettings
from tuition.model.check import check_unchanged
from tuition.model.decoder import Decoder
from tuition.model.derived import save_derived
from tuition.model.folder import ModelFolder, open_model
from tuition.model.load import load_decoder
from tuition.model.lora import adapter_of, load_with_lora
from tuition.plan.memory import TunedWeights, require_tuning
from tuition.registry.lineage import Lineage
from tuition.registry.linked import register_linked
from tuition.registry.registry import Registry, Version
from tuition.runtime.memory import free_bytes
from tuition.spec.counts import num_parameters
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.control import Control, control_texts
from tuition.train.recipe import RunContext
from tuition.train.recipes.base_settings import BaseSettings
from tuition.train.recipes.scored import BYTES_PER_TOKEN, Room
from tuition.train.settings import OptimizerSettings, wants

FULL = OptimizerSettings(kind="adamw", lr=1e-4, muon_lr=1e-3, weight_decay=0.0)
LORA = OptimizerSettings(kind="adamw", lr=1e-3, muon_lr=1e-3, weight_decay=0.0)
_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
MOST_CONTROL, LEAST_CONTROL = 24_576, 4_096
"""Bytes of the control text where nobody says; fewer where a budget is short."""
MOST_FULL = 500_000_000
"""Parameters of a base whose weights are all taught where nobody says."""


@dataclass(frozen=True)
class Start:
    """A registered adapter that is taught further."""

    reference: str
    """`name@version`"""
    digest: str
    weights: Adapter


@dataclass(frozen=True)
class Base:
    """An opened base model, and what of it is taught."""

    settings: BaseSettings
    name: str
    """`name@version`, or the path of one that is not registered."""
    folder: ModelFolder
    digest: str
    """SHA-256 of its weights."""
    adapter: AdapterSettings | None
    """None: all weights are taught."""
    start: Start | None = None
    """None: a new adapter is taught, or all weights."""
    path: Path | None = None
    """Where it was named by its path."""
    is_registered: bool = True

    @property
    def reference(self) -> str:
        """What training begins from, by a name that stands for nothing else."""
        if self.path is not None:
            return str(self.path)
        return self.name if self.start is None else self.start.reference

    @property
    def optimizer(self) -> OptimizerSettings:
        """What is taken for optimizer settings that are left out."""
        return FULL if self.adapter is None else LORA

    @property
    def passes(self) -> int:
        """Products of each matrix in a step: forward, gradient of the inputs, gradient of the matrix."""
        return 3 if self.adapter is None else 2

    def describe(self) -> list[str]:
        """What is loaded and what of it is taught; for a quantised file, what expanding its weights means."""
        of = "" if self.start is None else f"{self.start.reference}, an adapter of "
        lines = [f"begins from {of}{self.name} ({self.folder.format})"]
        if any(part.startswith("Q") for part in self.folder.format.replace("/", " ").split()):
            size = format_bytes(4 * num_parameters(self.folder.shape))
            lines.append(
                f"its quantised weights are expanded ({size} in float32) and taught from the rounded values; "
                "the result is not quantised (serve it with --precision int8 or int4)"
            )
        if self.adapter is None:
            return [*lines, "all of its weights are taught (--adapter none)"]
        held = f"the base is held in {self.settings.frozen} and does not change"
        what = f"an adapter of rank {self.adapter.rank} is taught"
        if self.start is not None:
            return [*lines, f"{what}, from the weights that it has; {held}"]
        return [*lines, f"{what} (--adapter lora); {held}"]

    def registered(self, context: RunContext) -> "Base":
        """The same base; one that was named by its path gets a name where an adapter is taught, which is
        used beside it."""
        if self.is_registered or self.adapter is None:
            return self
        version = register_linked(context.registry, self.folder.path, self.digest)
        context.progress.say(
            f"{self.name} is registered as {version.reference}, beside which the adapter is used; "
            "its files stay where they are"
        )
        return replace(self, name=version.reference, is_registered=True)

    def load(self, context: RunContext, batch_tokens: int, longest: int) -> Decoder:
        """The decoder for batches of so many tokens: float32 where all is taught, else frozen with an
        adapter. Raises: CapacityError; SettingsError for dropout where activations have to be recomputed."""
        shape, members = self.folder.shape, context.pool.size
        free = free_bytes(context.device)
        recomputes = require_tuning(shape, self._weights(), batch_tokens, longest, members, free)
        if self.adapter is None:
            decoder = load_decoder(self.folder, torch.float32, context.device)
        else:
            wants(
                not (recomputes and self.adapter.dropout),
                "lora.dropout",
                self.adapter.dropout,
                "0, or smaller batches: activations do not fit in memory, and would be recomputed without it",
            )
            generator = torch.Generator().manual_seed(context.settings.seed)
            start = None if self.start is None else self.start.weights
            decoder = load_with_lora(self.folder, self.adapter, generator, self.settings.frozen, start)
        decoder.recomputes = recomputes
        if recomputes:
            context.progress.say("activations do not fit in memory: each layer is computed twice in a step")
        return decoder.to(context.device)

    def _weights(self) -> TunedWeights:
        """What is held and what is trained."""
        shape = self.folder.shape
        total = num_parameters(shape)
        if self.adapter is None:
            return TunedWeights(held=0, trained=total)
        if self.start is not None:
            trained = self.start.weights.num_parameters
        else:
            sizes, rank = shape.tensor_shapes(), self.adapter.rank
            trained = sum(rank * sum(sizes[name]) for name in self.adapter.tensor_names(shape))
        return TunedWeights(held=_BYTES[self.settings.frozen] * total, trained=trained)

    def control(self, tokenizer: Tokenizer, room: Room) -> Control | None:
        """The control text in this model's tokens. Raises: DataError."""
        num_bytes = self.settings.control_bytes
        if num_bytes == 0:
            return None
        if num_bytes is None:
            num_bytes = max(LEAST_CONTROL, min(MOST_CONTROL, BYTES_PER_TOKEN * room.control))
        texts = control_texts(self.settings.control, num_bytes)
        return Control(texts, tokenizer, self.folder.shape.context_length)

    def lineage(self, recipe: str, corpus_digest: str) -> Lineage:
        return Lineage(
            corpus_digest=corpus_digest,
            parent=self.name,
            parent_digest=self.digest,
            kind=None if self.adapter is None else "adapter",
            recipe=recipe,
            adapter=None if self.start is None else self.start.reference,
            adapter_digest=None if self.start is None else self.start.digest,
        )

    def write(self, folder: Path, model: Decoder, manifest: Mapping[str, Any]) -> Path:
        """The base's folder with other weights, or the adapter in peft's format."""
        if self.adapter is not None:
            return save_adapter(folder, adapter_of(model, self.name, self.digest), self.folder, manifest)
        return save_derived(folder, self.folder, model.state_dict(), manifest, dtype=self.settings.save_as)


def base_of_run(settings: BaseSettings, context: RunContext) -> Base:
    """The base of a run. After a resume it is what the name stood for when the run began: the hub is not
    asked again, and a newer version of that name is not taken. Raises: as `open_base`."""
    kept = context.folder.base
    if kept.is_file():
        settings = replace(settings, base=json.loads(kept.read_text(encoding="utf-8")))
    base = open_base(settings, context.registry)
    write_json(kept, base.reference)
    return base


def open_base(settings: BaseSettings, registry: Registry) -> Base:
    """Find and open the base. Raises: SettingsError where none is named, or for settings that do not fit it;
    NotFoundError, ModelError."""
    found = registry.find(settings.require_base())
    if isinstance(found, Path):
        return _from_path(settings, registry, found.absolute())
    if found.kind == "adapter":
        return _from_adapter(settings, registry, found)
    folder = _opened(found)
    return Base(settings, found.reference, folder, found.digest, _adapter(settings, folder))


def _from_path(settings: BaseSettings, registry: Registry, path: Path) -> Base:
    """It goes by the name of a registered version that has the same weights and reads text alike."""
    if is_adapter(path):
        wanted = "a registered adapter: tuition models add NAME PATH"
        raise SettingsError("from", got=settings.base, wanted=wanted)
    folder = open_model(path)
    digest, read_as = folder.digest(), folder.tokenizer().text_digest
    same = (version for version in registry.list() if version.digest == digest)
    known = next((version for version in same if _text_digest(version) == read_as), None)
    name = str(path) if known is None else known.reference
    adapter = _adapter(settings, folder)
    return Base(settings, name, folder, digest, adapter, path=path, is_registered=known is not None)


def _text_digest(version: Version) -> str | None:
    """None for one whose files are gone."""
    try:
        return open_model(version.path, verify=False).tokenizer().text_digest
    except ModelError:
        return None


def _from_adapter(settings: BaseSettings, registry: Registry, version: Version) -> Base:
    """Raises: SettingsError for settings that are not those of the adapter."""
    way_out = f"to teach all weights merge it first: tuition models merge {version.name} --name NAME"
    wants(
        settings.adapter != "none", "adapter", "none", f"lora: {version.reference} is an adapter; {way_out}"
    )
    base = registry.base_of(version)
    folder = _opened(base)
    weights = open_adapter(version.path, folder)
    require_base(weights, folder, base.digest)
    given, has, plain = settings.lora, weights.settings, AdapterSettings()
    for name in ("rank", "alpha", "scale"):
        value, own = getattr(given, name), getattr(has, name)
        wanted = f"{own} as {version.reference} has it, or leave it out"
        wants(value in (own, getattr(plain, name)), f"lora.{name}", value, wanted)
    is_same = given.matrices == plain.matrices or {*given.tensor_names(folder.shape)} == {*weights.pairs}
    wanted = f"{' '.join(has.matrices)} as {version.reference} has it, or leave it out"
    wants(is_same, "lora.matrices", " ".join(given.matrices), wanted)
    dropout = has.dropout if given.dropout == plain.dropout else given.dropout
    start = Start(version.reference, version.digest, weights)
    return Base(settings, base.reference, folder, base.digest, replace(has, dropout=dropout), start)


def _opened(version: Version) -> ModelFolder:
    """Raises: ModelError, also where files that only are linked have changed."""
    folder = open_model(version.path)
    if not version.owned:
        check_unchanged(folder, version.digest)
    return folder


def _adapter(settings: BaseSettings, folder: ModelFolder) -> AdapterSettings | None:
    """Raises: SettingsError for settings of an adapter where none is taught, for matrices that the base
    lacks, or for a rank above theirs."""
    is_large = num_parameters(folder.shape) > MOST_FULL
    if settings.adapter == "lora" or (settings.adapter == "auto" and is_large):
        sizes = folder.shape.tensor_shapes()
        most = max(min(sizes[name]) for name in settings.lora.tensor_names(folder.shape))
        wanted = f"at most {most:,}, the smaller side of the largest matrix that is adapted"
        wants(settings.lora.rank <= most, "lora.rank", settings.lora.rank, wanted)
        return settings.lora
    settings.require_no_adapter()
    return None
