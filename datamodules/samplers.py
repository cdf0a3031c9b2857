"""Samplers: the order of images as a pure function of (seed, epoch), independent of the number of processes.

A sampler defines one global order for each epoch. Rank r of W takes positions r, r + W, r + 2W, ... of it. There is no
generator state: a random number is a hash of (seed, epoch, position). A resumed run therefore has the same order as an
uninterrupted one. The key of a position seeds the augmentation; it does not depend on batch size, workers or world
size.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from litesort.errors import DataError
from litesort.keyed_random import mix64

_ORDER, _AUGMENT = 0x6F72646572, 0x6175676D656E74  # two independent random streams of one seed


def hash64(seed: int, epoch: int, positions: np.ndarray, stream: int = _AUGMENT) -> np.ndarray:
    """Hash (seed, epoch, position) to 64 bits with SplitMix64 (Steele, Lea and Flood, 2014).

    Args:
        seed: Integer.
        epoch: Integer.
        positions: (n,) integers.
        stream: Number of the random stream.

    Returns:
        (n,) uint64.

    >>> hash64(0, 0, np.arange(3)) == hash64(0, 0, np.arange(5))[:3]
    array([ True,  True,  True])
    """
    with np.errstate(over="ignore"):
        state = mix64(np.array([seed & (2**64 - 1)], np.uint64) + np.uint64(stream))
        state = mix64(state + np.array([epoch & (2**64 - 1)], np.uint64))
        steps = (np.asarray(positions).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return mix64(state + steps)


def shuffled(n: int, total: int, seed: int, epoch: int) -> np.ndarray:
    """Return (total,) int64, total >= n: a permutation of 0..n-1, padded with its beginning."""
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
    """Draw `total` indices with replacement, (total,) int64; index i has probability weights[i]."""
    uniform = (hash64(seed, epoch, np.arange(total), _ORDER) >> np.uint64(11)) * 2.0**-53
    edges = np.cumsum(weights)
    return np.minimum(np.searchsorted(edges / edges[-1], uniform, side="right"), len(weights) - 1)


class Sampler(Protocol):
    """Interface of a sampler. Its indices refer to the labels that it was built from (0 to n - 1)."""

    longest: int  # largest number of images of any rank; it determines the number of batches on all ranks
    repeat_after: int | None  # number of epochs after which orders and keys repeat; None for never

    def set_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[int]: ...
    def order(self) -> np.ndarray:
        """Indices of this rank in this epoch, (len,) int64."""

    def keys(self) -> np.ndarray:
        """Key of each index of this rank in this epoch, (len,) uint64."""


class _Strided:
    """Base class: one global order for each epoch, of which each rank takes every `world_size`-th index."""

    def __init__(
        self, labels: Sequence[int] | np.ndarray, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if not 0 <= rank < world_size:
            raise DataError(f"sampler: rank={rank} is invalid: expected an integer from 0 to {world_size - 1}")
        self.labels = np.asarray(labels, dtype=np.int64)
        if not len(self.labels):
            raise DataError("sampler: there are no images: check data.root, data.val_fraction and data.test_fraction")
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
        """Indices of this rank in this epoch, (len,) int64."""
        raise NotImplementedError

    def keys(self) -> np.ndarray:
        """Key of each index of this rank in this epoch, (len,) uint64."""
        return hash64(self.seed, self.epoch, self.rank + self.world_size * np.arange(len(self)))


class ShuffleSampler(_Strided):
    """Each image once per epoch, in a new random order. If n is not divisible by the number of ranks, the first images
    of the order are repeated.
    """

    def order(self) -> np.ndarray:
        total = self.longest * self.world_size
        return shuffled(len(self.labels), total, self.seed, self.epoch)[self.rank :: self.world_size]


class WeightedSampler(_Strided):
    """Draw images with replacement, each with probability proportional to count(its class) ** -power.

    Args:
        labels: (n,) class indices.
        power: In [0, 1]. 0 draws all images with equal probability, 1 draws all classes with equal probability.
        seed, rank, world_size: See the module docstring.

    Raises:
        DataError: The power is outside of [0, 1], there are no labels, or the rank is invalid.
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
            raise DataError(
                f"sampler.power={power} is invalid: expected a number from 0 (equal images) to 1 (equal classes)"
            )
        self.weights = class_weights(self.labels, power)

    def order(self) -> np.ndarray:
        total = self.longest * self.world_size
        return weighted(self.weights, total, self.seed, self.epoch)[self.rank :: self.world_size]


class OrderedSampler(_Strided):
    """Each image exactly once, in order, in every epoch: for evaluation.

    If n is not divisible by the number of ranks, some ranks have one image more than others. The loaders have the same
    number of batches on each rank; with a batch size of 1, they repeat an image for that.
    """

    def __len__(self) -> int:
        return len(range(self.rank, len(self.labels), self.world_size))

    def order(self) -> np.ndarray:
        return np.arange(self.rank, len(self.labels), self.world_size)
