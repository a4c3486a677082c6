"""Rotary positions: how fast each pair of dimensions turns, plain or stretched to a longer context.

Sources: RoFormer, arXiv:2104.09864; linear: arXiv:2306.15595; llama3: the Llama 3.1 release, `scale_freqs`;
yarn: arXiv:2309.00071. Halves are split as in Llama checkpoints: dimension i turns with i + head_dim / 2.
"""

import math

import torch
from torch import Tensor

from tuition.spec.shape import ModelShape, RopeShape


def rope_frequencies(shape: ModelShape) -> tuple[Tensor, float]:
    """Radians per position of each pair, (head_dim / 2,) float32 on the CPU, and the factor on cos and
    sin.
    """
    rope, dim = shape.rope, shape.head_dim
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim
    plain = 1.0 / (rope.theta**exponents)  # (head_dim / 2,)
    if rope.kind == "linear":
        return plain / rope.factor, 1.0
    if rope.kind == "llama3":
        return _llama3(plain, rope), 1.0
    if rope.kind == "yarn":
        return _yarn(plain, rope, dim), yarn_attention_factor(rope)
    return plain, 1.0


def _llama3(plain: Tensor, rope: RopeShape) -> Tensor:
    """Slow pairs are stretched, fast ones stay, those between are mixed by their wavelength."""
    wavelength = 2 * math.pi / plain
    longest = rope.original_context / rope.low_freq_factor
    shortest = rope.original_context / rope.high_freq_factor
    smooth = (rope.original_context / wavelength - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    mixed = (1 - smooth) * plain / rope.factor + smooth * plain
    stretched = torch.where(wavelength > longest, plain / rope.factor, mixed)
    return torch.where(wavelength < shortest, plain, stretched)


def _yarn(plain: Tensor, rope: RopeShape, dim: int) -> Tensor:
    """A linear ramp over the dimensions, from frequencies that stay to frequencies that are stretched."""

    def dimension_of(rotations: float) -> float:
        """The dimension that turns `rotations` times within the original context."""
        return dim * math.log(rope.original_context / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = (high - low) or 0.001  # a ramp of no width would divide by zero
    ramp = ((torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / width).clamp(0, 1)
    return plain / rope.factor * ramp + plain * (1 - ramp)


def yarn_attention_factor(rope: RopeShape) -> float:
    """What yarn multiplies cos and sin by, so that attention stays as sharp as before the stretch."""
    if rope.attention_factor is not None:
        return rope.attention_factor

    def scale(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


class Rotary:
    """Angles of positions. Frequencies stay float32 whatever the model is cast to:
    bfloat16 would lose positions.
    """

    def __init__(self, shape: ModelShape) -> None:
        frequencies, self.factor = rope_frequencies(shape)
        self._frequencies = {frequencies.device: frequencies}

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
