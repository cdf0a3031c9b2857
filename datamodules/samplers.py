"""The order in which photos are drawn: pure functions of (seed, epoch), the same whatever the number of processes.

Every sampler fixes one global order an epoch; rank r of W takes positions r, r + W, r + 2W, ... of it. No generator
state is kept: a draw is a hash of (seed, epoch, position), so that a resumed run goes on exactly where it would have
been, and the key of a draw, which seeds its augmentation, does not depend on batch size, workers or world size.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from litesort.errors import DataError
from litesort.keyed_random import mix64

_ORDER, _AUGMENT = 0x6F72646572, 0x6175676D656E74  # two streams that share a seed and must not share a value


def hash64(seed: int, epoch: int, positions: np.ndarray, stream: int = _AUGMENT) -> np.ndarray:
    """Hash (seed, epoch, position) to 64 well-mixed bits, as SplitMix64 does (Steele, Lea and Flood, 2014).

    positions: (n,) integers. Returns (n,) uint64.

    >>> hash64(0, 0, np.arange(3)) == hash64(0, 0, np.arange(5))[:3]
    array([ True,  True,  True])
    """
    with np.errstate(over="ignore"):
        state = mix64(np.array([seed & (2**64 - 1)], np.uint64) + np.uint64(stream))
        state = mix64(state + np.array([epoch & (2**64 - 1)], np.uint64))
        steps = (np.asarray(positions).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return mix64(state + steps)


def shuffled(n: int, total: int, seed: int, epoch: int) -> np.ndarray:
    """Return `total` >= n places, (total,) int64: a permutation of 0..n-1, its beginning repeated to fill up."""
    order = np.argsort(hash64(seed, epoch, np.arange(n), _ORDER), kind="stable")
    return np.resize(order, total)


def class_weights(labels: np.ndarray, power: float) -> np.ndarray:
    """Return the probability of each sample, (n,) float64 summing to 1, proportional to count(its class) ** -power.

    >>> class_weights(np.array([0, 0, 0, 1]), power=1.0).round(3)
    array([0.167, 0.167, 0.167, 0.5  ])
    """
    weights = np.bincount(labels)[labels].astype(np.float64) ** -power
    return weights / weights.sum()


def weighted(weights: np.ndarray, total: int, seed: int, epoch: int) -> np.ndarray:
    """Draw `total` places with replacement, (total,) int64, place i with probability weights[i]."""
    uniform = (hash64(seed, epoch, np.arange(total), _ORDER) >> np.uint64(11)) * 2.0**-53
    edges = np.cumsum(weights)
    return np.minimum(np.searchsorted(edges / edges[-1], uniform, side="right"), len(weights) - 1)


class Sampler(Protocol):
    """What a loader asks of a sampler. It yields places in the list of labels it was given (0 to n - 1)."""

    longest: int  # the longest share of any rank: the loaders of all ranks take as many steps as that one needs
    repeat_after: int | None  # epochs after which their orders and keys come again; None is never

    def set_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[int]: ...
    def order(self) -> np.ndarray:
        """Places of this rank in this epoch, (len,) int64."""

    def keys(self) -> np.ndarray:
        """Key of each of these draws, (len,) uint64."""


class _Strided:
    """One global order an epoch, of which this rank takes every `world_size`-th place."""

    def __init__(
        self, labels: Sequence[int] | np.ndarray, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if not 0 <= rank < world_size:
            raise DataError(f"sampler: rank={rank} is not below world_size={world_size}: ranks count from 0")
        self.labels = np.asarray(labels, dtype=np.int64)
        if not len(self.labels):
            raise DataError(
                "sampler: there is no photo to draw from: check data.root and data.train/val/test fractions"
            )
        self.seed, self.rank, self.world_size, self.epoch = int(seed), rank, world_size, 0
        self.longest = -(-len(self.labels) // world_size)
        self.repeat_after: int | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = int(epoch) if self.repeat_after is None else int(epoch) % self.repeat_after

    def __len__(self) -> int:
        return self.longest

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def order(self) -> np.ndarray:
        """Places of this rank in this epoch, (len,) int64."""
        raise NotImplementedError

    def keys(self) -> np.ndarray:
        """Key of each draw of this rank in this epoch, (len,) uint64."""
        return hash64(self.seed, self.epoch, self.rank + self.world_size * np.arange(len(self)))


class ShuffleSampler(_Strided):
    """Every photo once an epoch, in a new order each; where ranks do not divide n, the first few come twice."""

    def order(self) -> np.ndarray:
        total = self.longest * self.world_size
        return shuffled(len(self.labels), total, self.seed, self.epoch)[self.rank :: self.world_size]


class WeightedSampler(_Strided):
    """Photos drawn with replacement, each with probability proportional to count(its class) ** -power.

    power: 0 draws all photos alike, 1 draws all classes alike; between them the imbalance is softened.
    """

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray,
        *,
        power: float = 1.0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(labels, seed=seed, rank=rank, world_size=world_size)
        if not 0 <= power <= 1:
            raise DataError(f"sampler.power={power} is not between 0 (photos alike) and 1 (classes alike)")
        self.weights = class_weights(self.labels, power)

    def order(self) -> np.ndarray:
        total = self.longest * self.world_size
        return weighted(self.weights, total, self.seed, self.epoch)[self.rank :: self.world_size]


class OrderedSampler(_Strided):
    """Every photo exactly once, in order, whatever the epoch: for evaluation.

    Shares of ranks differ by one where they do not divide n: no photo is evaluated twice, and the loader still takes as
    many steps on every rank.
    """

    def __len__(self) -> int:
        return len(range(self.rank, len(self.labels), self.world_size))

    def order(self) -> np.ndarray:
        return np.arange(self.rank, len(self.labels), self.world_size)
