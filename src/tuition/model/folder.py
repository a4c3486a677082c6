"""A model on disk: a Hugging Face folder or a GGUF file, opened with everything checked and nothing executed.

In: a path.  Out: a `ModelFolder`: shape, tokenizer, and tensors under our names, read one at a time.
Only safetensors, JSON and text are read; code and pickles that lie beside them are never touched.
torch is loaded when a tensor is first read.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from tuition.core.errors import ModelError
from tuition.model.config import shape_from_config
from tuition.model.families import Family
from tuition.model.generation import GenerationDefaults, defaults_of_folder, defaults_of_gguf
from tuition.model.gguf_file import GGUF_MAGIC, open_gguf, parts_of
from tuition.model.gguf_model import GgufModel, QuantisedRows
from tuition.model.manifest import MANIFEST, verify_manifest
from tuition.model.mapped import MappedFile, inside
from tuition.model.names import Layout
from tuition.model.safetensors_file import SafetensorsFile
from tuition.spec.shape import ModelShape
from tuition.tokenizer.folder import POINTER_HEAD, is_pointer, pointer_error, read_folder_settings
from tuition.tokenizer.gguf import gguf_templates, gguf_tokenizer
from tuition.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_HEAD = "lm_head.weight"

_UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".pt2", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz",
                    ".h5", ".msgpack", ".distcp", ".metadata", ".onnx", ".yaml", ".yml"}  # fmt: skip
_DERIVED = re.compile(
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|transformer\.h\.\d+\.attn\.(masked_)?bias"
)
"""Tensors of old checkpoints that follow from the config and are not needed."""
_BARE = ("model.", "transformer.")
"""What the names of a network lack that was saved without its head."""


@dataclass(frozen=True)
class ModelFolder:
    """An opened model. Tensors are read when asked for;
    they are views of mapped files where that is possible.
    """

    path: Path
    family: Family
    shape: ModelShape
    manifest: Mapping[str, Any] | None
    """`tuition.json`: lineage, digests, bill; None for models of others."""
    format: str
    """For people: `safetensors BF16`, `gguf Q4_1`."""
    num_bytes: int
    """Size of the weight files."""
    read_tensor: Callable[[str], "Tensor"] = field(repr=False)
    read_tokenizer: Callable[[], Tokenizer] = field(repr=False)
    read_rows: Callable[[str], QuantisedRows] | None = field(default=None, repr=False)
    """GGUF only: a tensor as raw blocks."""
    files: tuple[Path, ...] = ()
    """The weight files."""
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    """How the model's own files want tokens drawn, where a request does not say."""
    chat_templates: tuple[str, ...] = ()
    """Names of the texts in its own files that say how messages become a prompt, the default one first."""
    release: Callable[[], None] = field(default=lambda: None, repr=False)
    """Give back the memory of the weights that were read from files; they can be read again."""
    in_memory: bool = False
    """It has no files (model/memory); its weights may be others at the next reading."""

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Our names, in the order of the network."""
        return tuple(self.shape.tensor_shapes())

    def tensor(self, name: str) -> "Tensor":
        """One tensor under our name, in the type it is kept in (float32 where it was quantised)."""
        return self.read_tensor(name)

    def tensors(self) -> Iterator[tuple[str, "Tensor"]]:
        """Every tensor, one at a time."""
        for name in self.tensor_names:
            yield name, self.read_tensor(name)

    def quantised_rows(self, name: str) -> QuantisedRows | None:
        """A tensor's raw blocks, rows in our order, for runners that compute with them;
        None unless it is GGUF.
        """
        return None if self.read_rows is None else self.read_rows(name)

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises: ModelError for files that are missing or damaged."""
        return self.read_tokenizer()

    def digest(self) -> str:
        """SHA-256 of the weights (see model/digest); reads all of them."""
        digest = importlib.import_module("tuition.model.digest")
        return digest.weights_digest(self.tensors())


class _Stored(NamedTuple):
    """One tensor of a folder: its file, and its name there."""

    file: SafetensorsFile
    name: str


def _tensors() -> ModuleType:
    """`model/tensors`, which needs torch: a runner that has packed weights never reads a tensor."""
    return importlib.import_module("tuition.model.tensors")


def open_model(path: Path | str, *, verify: bool = True) -> ModelFolder:
    """Open a Hugging Face folder or a GGUF file.

    `verify` checks every file against the digests in `tuition.json`, when there is one.
    Raises: ModelError for what is missing, damaged, changed since it was published, or of an unknown kind.
    """
    if not str(path):
        raise ModelError("the model", "has an empty path", way_out="give the path of a folder or a GGUF file")
    path = Path(path)
    if path.is_dir():
        if not (path / "config.json").exists():
            ggufs = sorted(path.glob("*.gguf"))
            if ggufs and ggufs == parts_of(ggufs[0]):
                targets = [inside(path, file.name) for file in ggufs]
                return _open_file(targets[0] if len(ggufs) == 1 else ggufs[0])
            if len(ggufs) > 1:
                names = ", ".join(file.name for file in ggufs[:6])
                raise ModelError(
                    path, f"holds {len(ggufs)} GGUF files: {names}", way_out="give the path of one of them"
                )
        return _open_folder(path, verify)
    if path.exists():
        return _open_file(path)
    raise ModelError(
        path, "does not exist", way_out="check the path, or list names with: tuition models list"
    )


def _open_file(path: Path) -> ModelFolder:
    head = _head(path)
    if is_pointer(head):
        raise pointer_error(path)
    if not head.startswith(GGUF_MAGIC):
        suffix = path.suffix.lower()
        if suffix in _UNSAFE_SUFFIXES:
            raise _unsafe(path)
        way_out = "give the folder that holds it" if suffix == ".safetensors" else "give a model folder"
        raise ModelError(path, "is neither a model folder nor a GGUF file", way_out=way_out)
    model = GgufModel(open_gguf(path))
    return ModelFolder(
        path=path,
        family=model.family,
        shape=model.shape,
        manifest=None,
        generation=defaults_of_gguf(model.file.metadata, path),
        chat_templates=tuple(gguf_templates(model.file.metadata)),
        format=f"gguf {model.types}",
        num_bytes=model.file.num_bytes,
        files=tuple(file.path for file in model.file.files),
        read_tensor=lambda name: _tensors().gguf_tensor(model, name),
        read_tokenizer=lambda: gguf_tokenizer(model.file.metadata, str(path)),
        read_rows=model.quantised_rows,
        release=lambda: _release(model.file.files),
    )


def _release(files: Iterable[MappedFile]) -> None:
    for file in files:
        file.release()


def _head(path: Path) -> bytes:
    """The beginning of a file; nothing of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(POINTER_HEAD)
    except OSError:
        return b""


def _open_folder(folder: Path, verify: bool) -> ModelFolder:
    if not (folder / "config.json").exists():
        _refuse_unsafe(folder)
        raise ModelError(
            folder, "has no config.json", way_out="give a Hugging Face model folder or a GGUF file"
        )
    files: dict[str, MappedFile] = {}

    def mapped(name: str) -> MappedFile:
        if name not in files:
            files[name] = MappedFile(inside(folder, name))
        return files[name]

    manifest = mapped(MANIFEST).json_object() if (folder / MANIFEST).exists() else None
    if manifest is not None and verify:
        verify_manifest(folder, manifest, mapped)
    config = mapped("config.json").json_object()
    family, shape = shape_from_config(config, folder / "config.json")
    shards = _shards(folder, mapped)
    found = _check_tensors(folder, shape, family.layout, shards)
    places = family.layout.places(shape)

    def read_tensor(name: str) -> "Tensor":
        place, tensors = places[name], _tensors()
        stored = found[place.name]
        return tensors.part_of(tensors.safetensors_tensor(stored.file, stored.name), place)

    def read_tokenizer() -> Tokenizer:
        tokenizer = Tokenizer.load(folder)
        if (
            manifest is not None and verify
        ):  # it read the files under their names: they must still be the same
            verify_manifest(folder, manifest, lambda name: MappedFile(inside(folder, name)), weights=False)
        return tokenizer

    has_generation = (folder / "generation_config.json").exists()
    generation = mapped("generation_config.json").json_object() if has_generation else {}
    types = sorted({stored.file.entries[stored.name].dtype for stored in found.values()})
    return ModelFolder(
        path=folder,
        family=family,
        shape=shape,
        manifest=manifest,
        generation=defaults_of_folder(generation, folder / "generation_config.json"),
        chat_templates=read_folder_settings(folder).templates,
        format="safetensors " + "/".join(types),
        num_bytes=sum(shard.file.size for shard in shards.values()),
        files=tuple(shard.file.path for shard in shards.values()),
        read_tensor=read_tensor,
        read_tokenizer=read_tokenizer,
        release=lambda: _release(shard.file for shard in shards.values()),
    )


def _shards(folder: Path, mapped: Callable[[str], MappedFile]) -> dict[str, SafetensorsFile]:
    """The weight files by name, each opened once.

    With an index, files and index must name the same tensors.
    """
    if (folder / INDEX).exists():
        weight_map = mapped(INDEX).json_object().get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ModelError(folder / INDEX, "has no weight_map of names", way_out="fetch the file again")
        names = sorted(set(weight_map.values()))
        for name in names:
            if not name.endswith(".safetensors"):
                raise ModelError(
                    folder / INDEX, f"names {name[:120]!r}", way_out="only .safetensors files are read"
                )
        shards = {name: SafetensorsFile(mapped(name)) for name in names}
        for tensor, name in weight_map.items():
            if tensor not in shards[name].entries:
                raise ModelError(
                    folder / name,
                    f"lacks tensor {tensor[:120]!r} that the index puts there",
                    way_out="fetch it again",
                )
        for name, shard in shards.items():
            for tensor in shard.entries:
                if weight_map.get(tensor) != name:
                    raise ModelError(
                        folder / name,
                        f"holds tensor {tensor[:120]!r}, which the index does not put there",
                        way_out="fetch the folder again",
                    )
        return shards
    if (folder / WEIGHTS).exists():
        return {WEIGHTS: SafetensorsFile(mapped(WEIGHTS))}
    _refuse_unsafe(folder)
    raise ModelError(folder, f"has no {WEIGHTS} and no {INDEX}", way_out="fetch the weights as safetensors")


def _check_tensors(
    folder: Path, shape: ModelShape, layout: Layout, shards: Mapping[str, SafetensorsFile]
) -> dict[str, _Stored]:
    """Where each tensor of the layout lies; exactly those of the shape must be there."""
    found = {name: _Stored(shard, name) for shard in shards.values() for name in shard.entries}
    embedding = layout.name("embedding.weight")
    if embedding not in found:
        prefix = next(prefix for prefix in _BARE if embedding.startswith(prefix))
        if embedding.removeprefix(prefix) in found:
            found = {name if name == _HEAD else prefix + name: stored for name, stored in found.items()}
    kept: dict[str, _Stored] = {}
    for name, wanted in layout.stored(shape).items():
        if name not in found:
            raise ModelError(folder, f"tensor {name!r} is missing", way_out="fetch the folder again")
        kept[name] = found.pop(name)
        got = kept[name].file.entries[kept[name].name].shape
        if got != wanted.shape:
            raise ModelError(
                folder,
                f"tensor {name!r} has shape {got}, config.json says {wanted.shape}",
                way_out="fetch the folder again",
            )
    twice = found.pop(_HEAD, None) if shape.tied_head else None  # some writers store the tied head again
    if twice is not None and not _are_equal(twice, kept[embedding]):
        raise ModelError(
            folder, "the head is tied and yet stored with other values", way_out="correct tie_word_embeddings"
        )
    extra = sorted(name for name in found if not _DERIVED.fullmatch(name))
    if extra:
        raise ModelError(
            folder,
            f"{len(extra)} tensors have no place in a model of this config, {extra[0][:120]!r} for one",
            way_out="use the folder of a plain causal language model",
        )
    return kept


def _are_equal(head: _Stored, embedding: _Stored) -> bool:
    """Whether a stored head holds the values of the embedding; their types may differ."""
    types = [stored.file.entries[stored.name].dtype for stored in (head, embedding)]
    if types[0] == types[1]:
        return head.file.content(head.name) == embedding.file.content(embedding.name)
    read = _tensors().safetensors_tensor
    return bool(read(*head).double().equal(read(*embedding).double()))


def _refuse_unsafe(folder: Path) -> None:
    """Where there is nothing but weights that would have to be executed to be read, say so by name."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _UNSAFE_SUFFIXES:
            raise _unsafe(path)


def _unsafe(path: Path) -> ModelError:
    return ModelError(
        path,
        f"is a {path.suffix} file, a kind that can run code when it is loaded, and is never opened",
        way_out="convert it to safetensors where it came from",
    )
