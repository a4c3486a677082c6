"""Split one engine step among the requests in it: the Shapley value of the step, not tokens divided.

A step is modelled as v(S) = launches + max(compute of S, weights + cache reads of S) for a set S of requests:
what a request alone causes (its FLOPs, or its KV-cache bytes, whichever resource binds the step) it pays
itself; what is there for all of them (reading the weights, launches) they share equally. Everything is
counted in attoseconds of machine time, so that shares are integers that sum to the step.

Source: Shapley 1953; for one class of requests the value is own + shared / number present. Steps that mix
prefill chunks with decodes use the exact value over the two classes, each class represented by its mean.
There no request pays more of weights and launches than an equal part, which falls with every newcomer; what
it pays of its own may rise with one, up to all it causes, where the newcomer makes another resource bind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import lgamma
from typing import Literal

import numpy as np

from tuition.core.records import SequenceWork
from tuition.ledger.amount import split_integer
from tuition.spec.counts import head_matrix_parameters, layer_matrix_parameters, visible_keys
from tuition.spec.shape import ModelShape

Rule = Literal["shapley", "incremental"]

AS_PER_NS = 10**9
AS_PER_S = 10**18


@dataclass(frozen=True, slots=True)
class Share:
    """One request's part of a step, attoseconds of machine time."""

    own_as: int
    """Cost that it causes alone."""
    shared_as: int
    """Its part of the shared cost."""

    @property
    def total_as(self) -> int:
        return self.own_as + self.shared_as


@dataclass(frozen=True, slots=True)
class Load:
    """What one request computes and reads in one step."""

    phase: Literal["prefill", "decode"]
    flops: int
    kv_bytes: int


class StepCosts:
    """Counts FLOPs and cache bytes of work on one network; the sums over layers are done once."""

    def __init__(
        self, shape: ModelShape, weight_bytes: int | None = None, kv_bytes_per_value: int = 2
    ) -> None:
        """`weight_bytes`: bytes of weights read by a step; None takes two per matrix entry (bfloat16)."""
        self.shape = shape
        matrices = shape.num_layers * layer_matrix_parameters(shape) + head_matrix_parameters(shape)
        self.weight_bytes = 2 * matrices if weight_bytes is None else weight_bytes
        self._per_token = 2 * shape.num_layers * layer_matrix_parameters(shape)
        self._per_row = 2 * head_matrix_parameters(shape)
        self._per_pair = 4 * shape.query_size
        self._per_position = 2 * shape.kv_size * kv_bytes_per_value
        windows = [shape.window(layer) for layer in range(shape.num_layers)]
        self._windows = [(window, windows.count(window)) for window in dict.fromkeys(windows)]

    def load(self, work: SequenceWork, num_steps: int = 1) -> Load:
        """FLOPs (projections, attention, sampled logits) and bytes of keys and values read and written.

        In a burst of `num_steps` decodes the keys are read again for each token, in a step only once.
        """
        new, context = work.num_tokens, work.context_tokens
        if new == 1 and len(self._windows) == 1 and self._windows[0][0] is None:  # most steps: a plain decode
            layers = self._windows[0][1]
            flops = (
                self._per_token + self._per_row * work.num_sampled + self._per_pair * layers * (context + 1)
            )
            return Load(work.phase, flops, self._per_position * layers * (context + 2))
        flops = self._per_token * new + self._per_row * work.num_sampled
        positions = 0
        for window, num_layers in self._windows:
            flops += self._per_pair * num_layers * visible_keys(new, context, window)
            if num_steps > 1:
                read = visible_keys(new, context, window)
            else:  # a query is in its own window
                read = new + (context if window is None else min(context, window - 1))
            positions += num_layers * (read + new)  # the new ones are written
        return Load(work.phase, flops, self._per_position * positions if new else 0)


@dataclass
class Speeds:
    """The highest FLOPs and bytes per second of this engine so far; they decide which resource limits a step.

    Learned from the steps themselves, so that a wrong assumption about the machine has no effect.
    """

    flops_per_s: int = 1
    bytes_per_s: int = 1

    def learn(self, num_flops: int, num_bytes: int, wall_ns: int) -> None:
        """Keep the best of all steps seen."""
        if wall_ns > 0:
            self.flops_per_s = max(self.flops_per_s, num_flops * 10**9 // wall_ns)
            self.bytes_per_s = max(self.bytes_per_s, num_bytes * 10**9 // wall_ns)


def split_step(
    loads: Sequence[Load], wall_ns: int, *, weight_bytes: int, speeds: Speeds, rule: Rule = "shapley"
) -> list[Share]:
    """Split a step of `wall_ns` among the requests present; the shares sum to it exactly.

    A load with neither FLOPs nor bytes is not present and pays nothing. A modelled time above the
    measured time is scaled down to it. Raises: ValueError if nobody is present and wall_ns is not 0.
    """
    present = [i for i, load in enumerate(loads) if load.flops or load.kv_bytes]
    total_as = wall_ns * AS_PER_NS
    if not present:
        if total_as:
            raise ValueError(f"a step of {wall_ns} ns in which nobody did anything cannot be split")
        return [Share(0, 0)] * len(loads)
    shares = [Share(0, 0)] * len(loads)
    if len(present) == 1:
        own, shared = _lone(loads[present[0]], total_as, weight_bytes, speeds)
        shares[present[0]] = Share(own, shared)
        return shares
    step = _Step([loads[i] for i in present], total_as, weight_bytes, speeds)
    classes: dict[str, list[int]] = {}
    for i in present:
        classes.setdefault(loads[i].phase, []).append(i)
    if len(classes) == 1:
        parts, amounts = [present], [total_as]
    else:
        parts = [classes["decode"], classes["prefill"]]
        decode_as = step.shapley_decodes() if rule == "shapley" else step.decodes_alone()
        amounts = [decode_as, total_as - decode_as]
    for members, amount in zip(parts, amounts, strict=True):
        for i, share in zip(members, step.within([loads[i] for i in members], amount), strict=True):
            shares[i] = share
    return shares


def _lone(load: Load, total_as: int, weight_bytes: int, speeds: Speeds) -> tuple[int, int]:
    """A single request pays the whole step; its two parts are still shown separately."""
    step = _Step([load], total_as, weight_bytes, speeds)
    share = step.within([load], total_as)[0]
    return share.own_as, share.shared_as


class _Step:
    """The modelled times of one step, in attoseconds, scaled so that they fit into it."""

    def __init__(self, loads: Sequence[Load], total_as: int, weight_bytes: int, speeds: Speeds) -> None:
        self.total_as = total_as
        self._speeds = speeds
        self.decodes = [load for load in loads if load.phase == "decode"]
        self.prefills = [load for load in loads if load.phase == "prefill"]
        self.weights_as = weight_bytes * AS_PER_S // speeds.bytes_per_s
        compute = sum(self.compute_as(load) for load in loads)
        memory = self.weights_as + sum(self.memory_as(load) for load in loads)
        self.binds: Literal["compute", "memory"] = "compute" if compute > memory else "memory"
        self.modelled_as = max(compute, memory)

    def compute_as(self, load: Load) -> int:
        return load.flops * AS_PER_S // self._speeds.flops_per_s

    def memory_as(self, load: Load) -> int:
        return load.kv_bytes * AS_PER_S // self._speeds.bytes_per_s

    def fit(self, time_as: int) -> int:
        """A modelled time as used in this step: scaled down where the model exceeds the measured time."""
        return time_as * self.total_as // self.modelled_as if self.modelled_as > self.total_as else time_as

    def own_as(self, load: Load) -> int:
        """What the load causes on the binding resource."""
        return self.fit(self.compute_as(load) if self.binds == "compute" else self.memory_as(load))

    def within(self, loads: Sequence[Load], amount_as: int) -> list[Share]:
        """Split the cost of a class: each request pays its own part, and the rest is divided evenly."""
        own = [self.own_as(load) for load in loads]
        rest = amount_as - sum(own)
        if rest < 0:  # the class pays less than it causes: it shares a cost that others would have had anyway
            return [Share(part, 0) for part in split_integer(amount_as, own)]
        even = split_integer(rest, [1] * len(own))
        return [Share(mine, part) for mine, part in zip(own, even, strict=True)]

    def decodes_alone(self) -> int:
        """The step as it would have been without its prefill chunks (the incremental rule)."""
        compute = sum(self.compute_as(load) for load in self.decodes)
        memory = self.weights_as + sum(self.memory_as(load) for load in self.decodes)
        return min(self.total_as, self._launch_as() + self.fit(max(compute, memory)))

    def _launch_as(self) -> int:
        return max(0, self.total_as - self.modelled_as)

    def _mean(self, loads: Sequence[Load]) -> tuple[float, float]:
        """Mean compute and memory time of a class."""
        return sum(map(self.compute_as, loads)) / len(loads), sum(map(self.memory_as, loads)) / len(loads)

    def shapley_decodes(self) -> int:
        """What all decodes together pay: the exact Shapley value over two classes of equals."""
        num_decodes, num_prefills = len(self.decodes), len(self.prefills)
        decode, prefill = self._mean(self.decodes), self._mean(self.prefills)
        a, b = np.arange(num_decodes + 1)[:, None], np.arange(num_prefills + 1)[None, :]
        compute = a * decode[0] + b * prefill[0]  # (decodes + 1, prefills + 1)
        memory = float(self.weights_as) + a * decode[1] + b * prefill[1]
        scale = min(1.0, self.total_as / self.modelled_as)
        value = float(self._launch_as()) + np.maximum(compute, memory) * scale
        value[0, 0] = 0.0
        steps_up = value[1:] - value[:-1]  # (decodes, prefills + 1): what one more decode adds
        each = float((arrival_weights(num_decodes, num_prefills) * steps_up).sum())
        return min(self.total_as, max(0, round(each * num_decodes)))


@lru_cache(maxsize=64)
def arrival_weights(num_decodes: int, num_prefills: int) -> np.ndarray:
    """Chance that a decode, in a random order of arrival, finds a decodes and b prefills before it.

    Shape (num_decodes, num_prefills + 1), float64; sums to 1.
    """
    others = num_decodes - 1 + num_prefills

    def log_choose(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    weights = np.array(
        [
            [
                log_choose(num_decodes - 1, a) + log_choose(num_prefills, b) - log_choose(others, a + b)
                for b in range(num_prefills + 1)
            ]
            for a in range(num_decodes)
        ]
    )
    return np.exp(weights) / (others + 1)
