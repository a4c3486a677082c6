"""A workspace with a tiny chat model in it, and examples to teach it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch

from tuition.books.books import Books, open_books
from tuition.core.workspace import Workspace, open_workspace
from tuition.data.settings import DataSettings, ExampleSettings
from tuition.model.check import check_model
from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.registry.registry import Registry, Version
from tuition.spec.machine import detect_machine
from tuition.spec.shape import ModelShape, RopeShape
from tuition.tokenizer.folder import FolderSettings
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe
from tuition.train.folder import RunFolder
from tuition.train.listeners import Listener
from tuition.train.recipe import Recipe
from tuition.train.recipes.continued import Continued
from tuition.train.recipes.continued_settings import ContinuedEvaluation, ContinuedSettings
from tuition.train.recipes.finetune import Finetune
from tuition.train.recipes.finetune_settings import FinetuneEvaluation, FinetuneSettings
from tuition.train.run import Host, TrainResult, run_training
from tuition.train.settings import CheckpointSettings, OptimizerSettings, TrainSettings
from unit.train.home import Heard

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ANIMALS = ("cat", "dog", "owl", "fox", "hen", "cow", "pig", "bee", "ant", "elk", "rat", "ape")
NUMBERS = ("one", "two", "three", "four", "five", "six")
SHAPE = ModelShape(
    vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_size=48,
    context_length=128, tied_head=True, qk_norm=False, rope=RopeShape(),
)  # fmt: skip


def conversations() -> list[dict[str, Any]]:
    """How many of which animal, said back in capitals."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"I saw {number} {animal}s, and a {other}."},
                {"role": "assistant", "content": f"{number.upper()} {animal.upper()}"},
            ]
        }
        for number in NUMBERS
        for animal, other in zip(ANIMALS, reversed(ANIMALS), strict=True)
    ]


def chat_tokenizer() -> Tokenizer:
    texts = [json.dumps(row) for row in conversations()] * 4
    trained = train_bpe(texts, 300)
    core = tokenizers.Tokenizer.from_str(trained.to_json())
    core.add_special_tokens(
        [tokenizers.AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")]
    )
    settings = FolderSettings(
        eos_token="<|im_end|>", end_tokens=(trained.eos_token or "",), chat_template=TEMPLATE
    )
    return Tokenizer(core, settings)


class BaseHome:
    """See the module."""

    def __init__(self, root: Path) -> None:
        self.root, self.heard = root, Heard()
        self.workspace: Workspace = open_workspace(root / "home").create()
        self.tokenizer = chat_tokenizer()
        self.shape = replace(SHAPE, vocab_size=self.tokenizer.vocab_size)
        torch.manual_seed(1)
        decoder = Decoder(self.shape).initialize()
        self.folder = save_model(root / "base", decoder, self.shape, self.tokenizer, dtype="float32")
        (self.folder / "tuition.json").unlink()  # somebody else's model
        generation = {"eos_token_id": self.tokenizer.eos_ids[0], "temperature": 0.3, "top_p": 0.9}
        (self.folder / "generation_config.json").write_text(json.dumps(generation, indent=3))
        (self.folder / "LICENSE").write_text("of the base")
        with open_books(self.workspace) as books:
            digest = check_model(self.folder).digest
            self.base: Version = Registry(self.workspace, books).add("tiny", self.folder, digest=digest)
        self.examples = self.write("examples.jsonl", conversations())
        self.settings = TrainSettings(
            name="taught", steps=12, threads=1, precision="float32",
            optimizer=OptimizerSettings(lr=1e-2), checkpoints=CheckpointSettings(every_steps=4),
        )  # fmt: skip
        self.finetune = FinetuneSettings(
            base="tiny",
            data=ExampleSettings(paths=(self.examples,)),
            batch_tokens=256,
            control_bytes=4_096,
            evaluation=FinetuneEvaluation(times=3),
        )
        self.continued = ContinuedSettings(
            base="tiny",
            data=DataSettings(paths=(self.text(),), num_workers=1),
            batch_size=2,
            seq_len=32,
            control_bytes=4_096,
            evaluation=ContinuedEvaluation(times=3),
        )

    def write(self, name: str, rows: Sequence[dict[str, Any]]) -> Path:
        path = self.root / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def text(self) -> Path:
        path = self.root / "text.txt"
        lines = (f"{number} {animal}s and {other}\n" for number in NUMBERS
                 for animal in ANIMALS for other in ANIMALS)  # fmt: skip
        path.write_text("".join(lines))
        return path

    def run(
        self,
        recipe: Recipe | None = None,
        listeners: tuple[Listener, ...] = (),
        resume: RunFolder | Literal["newest"] | None = None,
        **changes: Any,
    ) -> TrainResult:
        """Fine-tune, or run another recipe; `changes` of the settings of either."""
        loop = {name: changes.pop(name) for name in list(changes) if hasattr(self.settings, name)}
        chosen = recipe or Finetune(replace(self.finetune, **changes))
        with open_books(self.workspace) as books:
            host = Host(self.workspace, books, detect_machine(), self.heard, listeners)
            return run_training(replace(self.settings, **loop), chosen, host, resume=resume)

    def run_continued(self, **changes: Any) -> TrainResult:
        return self.run(Continued(self.continued), **changes)

    def scores(self, version: Version) -> dict[str, float]:
        def read(books: Books) -> dict[str, float]:
            found = Registry(self.workspace, books).scores(version)
            return {score.task: score.value for score in found}

        with open_books(self.workspace) as books:
            return read(books)
