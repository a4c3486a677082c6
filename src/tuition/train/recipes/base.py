"""The model that training begins from: found by name, opened, loaded, and saved again with other weights.

In: settings with a registered name, `name@version`, a folder or a GGUF file.  Out: a `Base`. Recipes that
begin from a model share it, whatever they teach.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tuition.core.errors import SettingsError
from tuition.core.units import format_bytes
from tuition.model.adapter_folder import save_adapter
from tuition.model.adapter_settings import AdapterSettings
from tuition.model.check import check_unchanged
from tuition.model.decoder import Decoder
from tuition.model.derived import save_derived
from tuition.model.folder import ModelFolder, open_model
from tuition.model.load import load_decoder
from tuition.model.lora import adapter_of, load_with_lora
from tuition.plan.memory import TunedWeights, require_tuning
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry
from tuition.runtime.memory import free_bytes
from tuition.spec.counts import num_parameters
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.control import Control, control_texts
from tuition.train.recipe import RunContext
from tuition.train.recipes.base_settings import BaseSettings
from tuition.train.settings import OptimizerSettings, wants

FULL = OptimizerSettings(kind="adamw", lr=1e-4, muon_lr=1e-3, weight_decay=0.0)
LORA = OptimizerSettings(kind="adamw", lr=1e-3, muon_lr=1e-3, weight_decay=0.0)
_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
MOST_FULL = 500_000_000
"""Parameters of a base whose weights are all taught where nobody says."""


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
        lines = [f"begins from {self.name} ({self.folder.format})"]
        if any(part.startswith("Q") for part in self.folder.format.replace("/", " ").split()):
            size = format_bytes(4 * num_parameters(self.folder.shape))
            lines.append(
                f"its quantised weights are expanded ({size} in float32) and taught from the rounded values; "
                "the result is not quantised (serve it with --precision int8 or int4)"
            )
        if self.adapter is None:
            return [*lines, "all of its weights are taught (--adapter none)"]
        held = f"the base is held in {self.settings.frozen} and does not change"
        return [*lines, f"an adapter of rank {self.adapter.rank} is taught (--adapter lora); {held}"]

    def load(self, context: RunContext, batch_tokens: int, longest: int) -> Decoder:
        """The decoder for batches of so many tokens: float32 where all is taught, else frozen with a new
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
            decoder = load_with_lora(self.folder, self.adapter, generator, self.settings.frozen)
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
        sizes, rank = shape.tensor_shapes(), self.adapter.rank
        trained = sum(rank * sum(sizes[name]) for name in self.adapter.tensor_names(shape))
        return TunedWeights(held=_BYTES[self.settings.frozen] * total, trained=trained)

    def control(self, tokenizer: Tokenizer) -> Control | None:
        """The control text in this model's tokens. Raises: DataError."""
        num_bytes = self.settings.control_bytes
        if num_bytes == 0:
            return None
        texts = control_texts(self.settings.control, num_bytes)
        return Control(texts, tokenizer, self.folder.shape.context_length)

    def lineage(self, recipe: str, corpus_digest: str) -> Lineage:
        return Lineage(
            corpus_digest=corpus_digest,
            parent=self.name,
            parent_digest=self.digest,
            kind=None if self.adapter is None else "adapter",
            recipe=recipe,
        )

    def write(self, folder: Path, model: Decoder, manifest: Mapping[str, Any]) -> Path:
        """The base's folder with other weights, or the adapter in peft's format."""
        if self.adapter is not None:
            return save_adapter(folder, adapter_of(model, self.name, self.digest), self.folder, manifest)
        return save_derived(folder, self.folder, model.state_dict(), manifest, dtype=self.settings.save_as)


def open_base(settings: BaseSettings, registry: Registry) -> Base:
    """Find and open the base. Raises: SettingsError where none is named, or for settings that do not fit it;
    NotFoundError, ModelError."""
    name = settings.base
    if not name:
        raise SettingsError("from", got=name, wanted="the model to begin from: a registered name or a path")
    found, path = registry.find(name), None
    if isinstance(found, Path):
        path = found.absolute()
        folder = open_model(path)
        digest = folder.digest()
        found = next((known for known in registry.list() if known.digest == digest), None)
    else:
        wants(found.kind == "model", "from", name, "a model; merge the adapter first: tuition models merge")
        folder, digest = open_model(found.path), found.digest
        if not found.owned:
            check_unchanged(folder, digest)
    adapter = _adapter(settings, folder)
    if adapter is not None and found is None:
        wanted = "a registered model, beside which the adapter can be used: tuition models add NAME PATH"
        raise SettingsError("from", got=name, wanted=wanted)
    return Base(settings, found.reference if found else str(path), folder, digest, adapter)


def _adapter(settings: BaseSettings, folder: ModelFolder) -> AdapterSettings | None:
    """Raises: SettingsError for settings of an adapter where none is taught, or for matrices that the base
    lacks."""
    is_large = num_parameters(folder.shape) > MOST_FULL
    if settings.adapter == "lora" or (settings.adapter == "auto" and is_large):
        settings.lora.tensor_names(folder.shape)
        return settings.lora
    plain = BaseSettings()
    for name in ("lora", "frozen"):
        value = getattr(settings, name)
        wants(
            value == getattr(plain, name), name, value, "--adapter lora: all weights of this base are taught"
        )
    return None
