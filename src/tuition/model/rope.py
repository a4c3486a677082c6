"""Rotary positions: how fast each pair of dimensions turns, plain or stretched to a longer context. No torch.

Sources: RoFormer, arXiv:2104.09864; linear: arXiv:2306.15595; llama3: the Llama 3.1 release, `scale_freqs`;
yarn: arXiv:2309.00071; longrope: arXiv:2402.13753. Halves are split as in Llama checkpoints: dimension i
turns with i + head_dim / 2.
"""

import math

import numpy as np

from tuition.spec.shape import RopeShape


def rope_frequencies(rope: RopeShape, head_dim: int) -> tuple[np.ndarray, float]:
    """Radians per position of each pair that turns, (rotary_dim / 2,) float32, and the factor on cos and
    sin."""
    dim = rope.rotary_dim or head_dim
    if rope.kind == "longrope":
        slower = np.array(rope.short_factors, np.float32)
        return np.float32(1) / (slower * _wavelengths(rope.theta, dim)), longrope_attention_factor(rope)
    plain = plain_frequencies(rope.theta, dim)
    if rope.kind == "linear":
        return plain / rope.factor, 1.0
    if rope.kind == "llama3":
        return _llama3(plain, rope), 1.0
    if rope.kind == "yarn":
        return _yarn(plain, rope, dim), yarn_attention_factor(rope)
    return plain, 1.0


def plain_frequencies(theta: float, dim: int) -> np.ndarray:
    """Frequencies without any stretch. The powers are rounded from float64: float32's own are not the same on
    every processor, and far positions multiply the difference."""
    return np.float32(1) / _wavelengths(theta, dim)


def _wavelengths(theta: float, dim: int) -> np.ndarray:
    """Positions per radian of each pair."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.power(np.float64(theta), exponents.astype(np.float64)).astype(np.float32)


def _llama3(plain: np.ndarray, rope: RopeShape) -> np.ndarray:
    """Slow pairs are stretched, fast ones stay, those between are mixed by their wavelength."""
    wavelength = np.float32(2 * math.pi) / plain
    longest = rope.original_context / rope.low_freq_factor
    shortest = rope.original_context / rope.high_freq_factor
    smooth = (rope.original_context / wavelength - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    mixed = (1 - smooth) * plain / rope.factor + smooth * plain
    stretched = np.where(wavelength > longest, plain / rope.factor, mixed)
    return np.where(wavelength < shortest, plain, stretched)


def _yarn(plain: np.ndarray, rope: RopeShape, dim: int) -> np.ndarray:
    """A linear ramp over the dimensions, from frequencies that stay to frequencies that are stretched."""

    def dimension_of(rotations: float) -> float:
        """The dimension that turns `rotations` times within the original context."""
        return dim * math.log(rope.original_context / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = (high - low) or 0.001  # a ramp of no width would divide by zero
    ramp = ((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width)).clip(0, 1)
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


def longrope_attention_factor(rope: RopeShape) -> float:
    """What longrope multiplies cos and sin by."""
    if rope.attention_factor is not None:
        return rope.attention_factor
    return (
        1.0 if rope.factor <= 1.0 else math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_context))
    )


def angle_table(rope: RopeShape, head_dim: int, num_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of the positions from 0, two of (num_positions, rotary_dim / 2) float32."""
    frequencies, factor = rope_frequencies(rope, head_dim)
    angles = np.arange(num_positions, dtype=np.float32)[:, None] * frequencies
    cos, sin = np.cos(angles), np.sin(angles)
    if factor != 1.0:
        cos, sin = cos * np.float32(factor), sin * np.float32(factor)
    return cos, sin
