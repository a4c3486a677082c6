"""Rotary angles as tensors, for the decoder; see `rope` for the frequencies and their sources."""

import torch
from torch import Tensor

from tuition.model.rope import rope_frequencies
from tuition.spec.shape import ModelShape


class Rotary:
    """Angles of positions. Frequencies stay float32 whatever the model is cast to:
    bfloat16 would lose positions.
    """

    def __init__(self, shape: ModelShape) -> None:
        frequencies, self.factor = rope_frequencies(shape)
        self._frequencies = {torch.device("cpu"): torch.from_numpy(frequencies)}

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of (batch, seq) positions: two of (batch, seq, 1, head_dim / 2), float32."""
        device = positions.device
        if device not in self._frequencies:
            self._frequencies[device] = self._frequencies[torch.device("cpu")].to(device)
        angles = positions[..., None].float() * self._frequencies[device]  # (batch, seq, head_dim / 2)
        cos, sin = angles.cos(), angles.sin()
        if self.factor != 1.0:
            cos, sin = cos * self.factor, sin * self.factor
        return cos[:, :, None], sin[:, :, None]
