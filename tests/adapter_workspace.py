"""A workspace with a small base and adapters of it, registered as training registers them."""

from collections.abc import Sequence

import numpy as np
import torch

from tuition.books.books import Books
from tuition.core.workspace import Workspace
from tuition.model.adapter import Adapter
from tuition.model.adapter_folder import save_adapter
from tuition.model.adapter_settings import AdapterSettings, adaptable
from tuition.model.decoder import Decoder
from tuition.model.folder import open_model
from tuition.model.save import save_model
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry, Version
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe

SHAPE = ModelShape(320, 64, 2, 4, 2, 16, 96, 256)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def publish_base(registry: Registry, name: str, seed: int = 1) -> Version:
    """A model with random weights and a chat template."""
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    text = ["to be or not to be, that is the question\n" * 30]
    tokenizer = train_bpe(text, SHAPE.vocab_size, specials, chat_template=TEMPLATE)
    weights = Decoder(SHAPE).initialize(0.3, torch.Generator().manual_seed(seed))
    return registry.publish(
        name, lambda path: save_model(path, weights, SHAPE, tokenizer, dtype="float32"), Lineage()
    )


def random_adapter(base: Version, seed: int, rank: int = 4) -> Adapter:
    """One that changes every reply of the base."""
    shape, drawn, pairs = open_model(base.path).shape, np.random.default_rng(seed), {}
    for name in adaptable(shape):
        outputs, inputs = shape.tensor_shapes()[name]
        down, up = drawn.normal(size=(rank, inputs)), drawn.normal(size=(outputs, rank))
        pairs[name] = (down.astype(np.float32), up.astype(np.float32) / 20)
    settings = AdapterSettings(rank=rank, alpha=2.0 * rank)
    return Adapter(settings, pairs, base=base.reference, base_digest=base.digest)


def publish_adapter(registry: Registry, name: str, base: Version, seed: int) -> Version:
    """An adapter of `base`."""
    folder, adapter = open_model(base.path), random_adapter(base, seed)
    lineage = Lineage(kind="adapter", parent=base.reference, parent_digest=base.digest)
    return registry.publish(name, lambda path: save_adapter(path, adapter, folder, {}), lineage)


def fill(workspace: Workspace, books: Books, adapters: Sequence[str]) -> None:
    """Register `base` and `adapters` of it, each by another seed."""
    registry = Registry(workspace, books)
    base = publish_base(registry, "base")
    for seed, name in enumerate(adapters):
        publish_adapter(registry, name, base, seed)
