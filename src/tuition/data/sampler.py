"""Which samples are in which step: a function of seed and step, so that no state has to be stored.

In: seed, step.  Out: epochs and sample ids. Every sample comes exactly once in every epoch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuition.core.errors import SettingsError

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIER_1, _MULTIPLIER_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter 64-bit numbers. Source: the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * _MULTIPLIER_1
    values = (values ^ (values >> np.uint64(27))) * _MULTIPLIER_2
    return values ^ (values >> np.uint64(31))


def shuffled(places: NDArray[np.int64], size: int, key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The values at `places` of a shuffled 0 .. size - 1, without computing the whole order.

    Shapes: places (n,), each below size; key (n,), one order for each key; result (n,).
    A Feistel network over the next even number of bits, walked on while it lands outside (Black and Rogaway,
    CT-RSA 2002).
    """
    half_bits = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half_bits) - np.uint64(1)
    values = places.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> half_bits, values[outside] & low
        for turn in range(_ROUNDS):
            noise = mix(right + key[outside] + np.uint64((turn + 1) * _GOLDEN % 2**64))
            left, right = right, (left ^ noise) & low
        values[outside] = (left << half_bits) | right
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


@dataclass(frozen=True)
class Sampler:
    """Sample ids of any step. Several ranks take neighbouring parts of each step, and no sample twice."""

    num_samples: int
    batch_size: int
    """Samples in one step of one rank."""
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise SettingsError("num_samples", got=self.num_samples, wanted="at least 1")
        if self.batch_size < 1:
            raise SettingsError("batch_size", got=self.batch_size, wanted="at least 1")
        if not 0 <= self.rank < self.world_size:
            raise SettingsError("rank", got=self.rank, wanted=f"from 0 to {self.world_size - 1}")

    @property
    def epoch_steps(self) -> float:
        """Steps in which every sample comes once, a fraction included."""
        return self.num_samples / (self.batch_size * self.world_size)

    def at(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample ids at `places` (n,) of an epoch's order."""
        return shuffled(places, self.num_samples, np.repeat(self.epoch_keys(np.array([epoch])), len(places)))

    def step(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(epochs, sample ids), each (batch_size,), of a step counted from 0. A step may reach into the next
        epoch."""
        first = (step * self.world_size + self.rank) * self.batch_size
        places = np.arange(first, first + self.batch_size, dtype=np.int64)
        epochs, within = np.divmod(places, self.num_samples)
        return epochs, shuffled(within, self.num_samples, self.epoch_keys(epochs))

    def epoch_keys(self, epochs: NDArray[np.int64]) -> NDArray[np.uint64]:
        """One 64-bit number for each epoch, from the seed."""
        seeded = mix(np.array([self.seed % 2**64], dtype=np.uint64))
        return mix(seeded + epochs.astype(np.uint64) * np.uint64(_GOLDEN))
