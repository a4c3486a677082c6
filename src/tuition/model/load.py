"""From a model on disk to a `Decoder` in memory."""

from pathlib import Path

import torch

from tuition.model.decoder import Decoder
from tuition.model.folder import ModelFolder, open_model


def load_decoder(
    source: ModelFolder | Path | str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Decoder:
    """A decoder with the weights of `source`, in its own memory. Raises: ModelError.

    Whoever calls this asks before whether it fits in memory: `plan.memory.require_model`.
    """
    folder = source if isinstance(source, ModelFolder) else open_model(source)
    with torch.device("meta"):
        decoder = Decoder(folder.shape)
    state = {name: tensor.to(device, dtype, copy=True) for name, tensor in folder.tensors()}
    decoder.load_state_dict(state, strict=True, assign=True)
    folder.release()
    return decoder
