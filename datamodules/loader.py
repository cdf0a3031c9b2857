"""Batches from the pixel cache, or decoded on the fly (signatures; the bodies follow)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from datamodules.batch import Batch
from datamodules.cache import PhotoSource
from datamodules.samplers import Sampler

Draw = Callable[[np.ndarray], Any]  # (B,) uint64 keys -> what the augmentation will do


def auto_workers(num_workers: int | str) -> int:
    """Worker processes for decoding on the fly: "auto" is one a core, at most 8."""
    raise NotImplementedError


class PixelLoader:
    """Batches by one index into `array` (N, S, S, 3) uint8.

    labels: (N,) of all samples; rows: (n,) rows of the split; sampler: made of labels[rows] (its places index `rows`).
    """

    def __init__(
        self,
        array: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray,
        sampler: Sampler,
        batch_size: int,
        *,
        drop_last: bool = False,
        draw: Draw | None = None,
        prefetch: int = 2,
        pin: bool | None = None,
    ) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        raise NotImplementedError


class DecodingLoader:
    """The same batches with no cache: photos are decoded by worker processes; broken ones are left out and recorded.

    on_broken(row, reason) is called once a broken photo (raise in it to make them fatal); `.broken` is row -> reason.
    """

    def __init__(
        self,
        source: PhotoSource,
        size: int,
        policy: str,
        labels: np.ndarray,
        rows: np.ndarray,
        sampler: Sampler,
        batch_size: int,
        *,
        drop_last: bool = False,
        draw: Draw | None = None,
        num_workers: int | str = "auto",
        pin: bool | None = None,
        on_broken: Callable[[int, str], None] | None = None,
    ) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        raise NotImplementedError
