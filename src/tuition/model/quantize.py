"""Rounding of weights to the number formats of `formats`, and back.

In: a weight matrix (rows, columns) as float32.  Out: `Quantised`, integers with float16 scales.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tuition.core.errors import ShapeError
from tuition.model.formats import GROUP, IntegerFormat, Quantised

Rule = Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]
"""Groups (rows, groups, GROUP) -> integers of that shape, scales and minima (rows, groups, 1) float16."""

_CHUNK = 2**18
"""Weights quantised at a time, so that what is tried stays in the processor's cache."""

_SHRINK = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8)
"""Scales tried for int4min, relative to the one that clips nothing: clipping the largest weight of a group
a little often costs less than the coarser steps that it forces on the others."""

_STEPS = (1.0, 0.9, 0.95, 1.04, 1.08, 1.12, 1.16, 1.2)
"""Steps tried for int4, relative to the one whose -8 is the largest weight: a coarser one gains as much as a
finer one that clips. Eight come within half a percent of the error that forty leave."""


def quantize(weight: Tensor, format: IntegerFormat) -> Quantised:
    """Round a (rows, columns) matrix of any float type; the last group may be shorter. Raises: ShapeError."""
    if weight.dim() != 2 or 0 in weight.shape:
        raise ShapeError("quantize", wanted="a matrix (rows, columns)", got=tuple(weight.shape))
    rule = {"int8": _round_int8, "int4": _round_int4, "int4min": _round_int4min}[format]
    step = max(1, _CHUNK // weight.shape[1])
    parts = [_quantize_rows(rows.float(), rule) for rows in weight.detach().split(step)]
    q, scales = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    minima = [part[2] for part in parts if part[2] is not None]
    return Quantised(format, q, scales, np.concatenate(minima) if minima else None)


def dequantize(quantised: Quantised) -> Tensor:
    """The weights that the integers stand for, (rows, columns) float32."""
    columns = quantised.q.shape[1]
    q = torch.from_numpy(quantised.q).float()  # (rows, columns)
    scales = _spread(quantised.scales, columns)
    if quantised.format == "int8":
        return q * scales
    if quantised.minima is None:
        return (q - 8) * scales
    return q * scales + _spread(quantised.minima, columns)


def _spread(per_group: np.ndarray, columns: int) -> Tensor:
    """(rows, groups) float16 -> (rows, columns) float32"""
    return torch.from_numpy(per_group).float().repeat_interleave(GROUP, dim=1)[:, :columns]


def _quantize_rows(weight: Tensor, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    rows, columns = weight.shape
    if short := -columns % GROUP:  # the last weight again: it does not change the range of its group
        weight = torch.cat((weight, weight[:, -1:].expand(rows, short)), dim=1)
    groups = weight.reshape(rows, -1, GROUP)
    q, scales, minima = rule(groups)
    q = q.reshape(rows, -1)[:, :columns].to(torch.int8).contiguous().numpy()
    return q, scales.squeeze(-1).numpy(), None if minima is None else minima.squeeze(-1).numpy()


def _half(values: Tensor) -> Tensor:
    """As float16, kept finite."""
    return values.clamp(-65504, 65504).half()


def _inverse(scales: Tensor) -> Tensor:
    """1 / scale, and 0 where the scale is 0."""
    return torch.where(scales == 0, 0, 1 / scales)


def _round_int8(groups: Tensor) -> tuple[Tensor, Tensor, None]:
    scales = _half(groups.abs().amax(-1, keepdim=True) / 127)  # (rows, groups, 1)
    return (groups * _inverse(scales.float())).round().clamp(-127, 127), scales, None


def _round_int4(groups: Tensor) -> tuple[Tensor, Tensor, None]:
    """The integers of a few steps that point most nearly where the weights w do, then their unbiased scale.

    The scale is <w, w> / <q, w>, so that <rounded, w> = <w, w>: the error stands at a right angle to the
    weights, and products with them are right on average. The scale of the least error, <q, w> / <q, q>, makes
    all of them smaller by the error's share of <w, w>, which adds up over the layers and flattens what the
    model says. Both scales rank the integers alike, by their angle to w. The largest weight maps to -8,
    whatever its sign, since the integers reach further down than up; the other way round gains nothing.
    """
    extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))  # (rows, groups, 1)
    scales = _half(extreme / -8).float()
    units = groups * _inverse(scales)  # (rows, groups, GROUP), the largest at -8
    best, chosen = torch.zeros_like(scales), torch.ones_like(scales)
    for step in _STEPS:
        q = (units / step).round_().clamp_(-8, 7)
        along, square = (q * units).sum(-1, keepdim=True), q.square().sum(-1, keepdim=True)
        cosine = along.square() / square  # squared and times <w, w>; no number in a group of zeros
        better = cosine > best
        best, chosen = torch.where(better, cosine, best), torch.where(better, step, chosen)
    q = (units / chosen).round_().clamp_(-8, 7)
    longer = units.square().sum(-1, keepdim=True) * _inverse((q * units).sum(-1, keepdim=True))
    return q + 8, _half(scales * longer), None


def _round_int4min(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pair with the least error among a few candidates and the least-squares pair of the best."""
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)

    def attempt(scales: Tensor, minima: Tensor) -> tuple[Tensor, Tensor]:
        q = ((groups - minima) * _inverse(scales)).round_().clamp_(0, 15)
        return q, (q * scales + minima).sub_(groups).square_().sum(-1, keepdim=True)

    best, base, least = _half((high - low) / 15), _half(low), torch.full_like(low, torch.inf)
    for shrink in _SHRINK:
        rest = (1 - shrink) / 2 * (high - low)
        scales, minima = _half(shrink * (high - low) / 15), _half(low + rest)
        error = attempt(scales.float(), minima.float())[1]
        best, base = torch.where(error < least, scales, best), torch.where(error < least, minima, base)
        least = torch.minimum(error, least)
    q = attempt(best.float(), base.float())[0]
    mean_q, mean = q.mean(-1, keepdim=True), groups.mean(-1, keepdim=True)
    spread = (q - mean_q).square().sum(-1, keepdim=True)
    slope = ((q - mean_q) * (groups - mean)).sum(-1, keepdim=True) * _inverse(spread)
    fitted, fitted_base = _half(slope), _half(mean - slope * mean_q)
    better = attempt(fitted.float(), fitted_base.float())[1] < least
    best, base = torch.where(better, fitted, best), torch.where(better, fitted_base, base)
    return attempt(best.float(), base.float())[0], best, base
