"""Check a model before it is registered: read every weight, load the tokenizer, render a chat.

In: the path of a folder or GGUF file.  Out: `CheckedModel`, or a ModelError that says what is wrong.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from tuition.core.errors import ModelError, RequestError
from tuition.model.digest import weights_digest
from tuition.model.folder import ModelFolder, open_model
from tuition.tokenizer.tokenizer import Tokenizer

_HELLO = [{"role": "user", "content": "Hello"}]


class CheckedModel(NamedTuple):
    """A model that reads, with finite weights and a tokenizer that fits them."""

    folder: ModelFolder
    digest: str
    """SHA-256 of the weights (see model/digest)."""


def check_model(path: Path | str) -> CheckedModel:
    """Read all of a model. Raises: ModelError for what is missing, damaged, not finite or does not fit."""
    folder = open_model(path)
    if Path(path).is_file() and len(folder.files) > 1:
        raise ModelError(
            folder.path, "is one part of a model in several files", way_out="give the folder that holds them"
        )
    check_tokenizer(folder)
    return CheckedModel(folder, weights_digest(_finite(folder)))


def check_unchanged(folder: ModelFolder, digest: str) -> None:
    """Read all weights of a model that lies where others may change it.
    Raises: ModelError unless they are those that were registered with `digest`."""
    found = weights_digest(folder.tensors())
    if found != digest:
        problem = f"its weights have changed since it was registered (digest {found[:12]}..., it was "
        problem += f"{digest[:12]}...)"
        raise ModelError(folder.path, problem, way_out="restore the files, or add them under a new name")


def check_tokenizer(folder: ModelFolder) -> Tokenizer:
    """The model's tokenizer, after a text and a chat were encoded with it. Raises: ModelError."""
    tokenizer = folder.tokenizer()
    used = {*tokenizer.encode("Hello"), *tokenizer.eos_ids[:1]}
    if tokenizer.chat is not None:
        try:
            used |= {*tokenizer.render_chat(_HELLO)}
        except RequestError:
            pass  # a template may refuse these messages and take others
    rows = folder.shape.vocab_size
    beyond = sorted(token_id for token_id in used if token_id >= rows)
    if beyond:
        raise ModelError(
            folder.path,
            f"its tokenizer writes the token {tokenizer.token(beyond[0])!r} with id {beyond[0]:,}, "
            f"the embedding has {rows:,} rows",
            way_out="use the tokenizer that was trained with these weights",
        )
    return tokenizer


def _finite(folder: ModelFolder) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in folder.tensors():
        if not all(end.isfinite() for end in tensor.aminmax()):
            problem = f"holds a NaN or an infinity in {name}"
            raise ModelError(folder.path, problem, way_out="fetch the file again")
        yield name, tensor
