"""A model that is only in memory, as everything takes it that takes an opened one: for weights that change
while they are used, such as those of a policy that is being taught.

In: tensors under our names.  Out: a `ModelFolder` without files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from tuition.core.errors import ShapeError
from tuition.model.families import choose_family
from tuition.model.folder import ModelFolder
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer


def model_in_memory(
    shape: ModelShape, tensors: Mapping[str, Tensor], read_tokenizer: Callable[[], Tokenizer]
) -> ModelFolder:
    """The tensors are read when a runner loads or swaps them, and not copied here.

    Raises: ShapeError when names or shapes are not those of `shape`.
    """
    require_tensors(shape, tensors)
    return ModelFolder(
        path=Path("memory"),
        family=choose_family(shape),
        shape=shape,
        manifest=None,
        format="memory",
        num_bytes=sum(tensor.nbytes for tensor in tensors.values()),
        read_tensor=lambda name: tensors[name].detach(),
        read_tokenizer=read_tokenizer,
        in_memory=True,
    )


def require_tensors(shape: ModelShape, tensors: Mapping[str, Tensor]) -> None:
    """Raises: ShapeError when names or shapes are not those of `shape`."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shape.tensor_shapes():
        wrong = sorted(set(found.items()) ^ set(shape.tensor_shapes().items()))
        raise ShapeError("model in memory", wanted="exactly the tensors of the shape", got=wrong[:4])
