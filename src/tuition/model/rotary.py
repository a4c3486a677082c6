"""Rotary angles as tensors, for the decoder; see `rope` for the frequencies and their sources."""

import torch
from torch import Tensor

from tuition.model.rope import rope_frequencies
from tuition.spec.shape import ModelShape

Angles = tuple[Tensor, Tensor]
"""cos and sin: (batch or 1, seq, 1, rotary_dim / 2), float32."""


class Rotary:
    """Angles of positions, for each of `ModelShape.ropes`. Frequencies stay float32 whatever the model is
    cast to: bfloat16 would lose positions.
    """

    def __init__(self, shape: ModelShape) -> None:
        found = [rope_frequencies(rope, shape.head_dim) for rope in shape.ropes]
        self._factors = [factor for _, factor in found]
        self._frequencies = {torch.device("cpu"): [torch.from_numpy(frequencies) for frequencies, _ in found]}

    def angles(self, positions: Tensor) -> list[Angles]:
        """Angles at (batch, seq) positions."""
        device = positions.device
        if device not in self._frequencies:
            on_cpu = self._frequencies[torch.device("cpu")]
            self._frequencies[device] = [frequencies.to(device) for frequencies in on_cpu]
        places = positions[..., None].float()
        result = []
        for frequencies, factor in zip(self._frequencies[device], self._factors, strict=True):
            angles = places * frequencies  # (batch, seq, rotary_dim / 2)
            cos, sin = angles.cos(), angles.sin()
            if factor != 1.0:
                cos, sin = cos * factor, sin * factor
            result.append((cos[:, :, None], sin[:, :, None]))
        return result
