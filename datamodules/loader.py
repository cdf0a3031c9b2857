"""Loaders: batches from the pixel cache, or decoded by worker processes."""

import itertools
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules import images
from datamodules.batch import Batch
from datamodules.cache.build import ImageSource
from datamodules.samplers import Sampler
from litesort.errors import DataError
from litesort.system import available_cpus

log = logging.getLogger(__name__)

Draw = Callable[[np.ndarray, int], Any]  # keys (B,) uint64, side of the images -> augmentation parameters


class EpochBatches:
    """The batches of an epoch with their augmentation parameters. The number of batches is the same on every rank.

    Args:
        labels: (N,) class indices of all samples.
        rows: (n,) samples of this split.
        sampler: Built from `labels[rows]`; its indices refer to `rows`.
        batch_size: Images a batch of this rank, at least 1.
        drop_last: Drop the last batch if it is not full, unless it is the only one.
        draw: `Augment.draw` in training, otherwise None.

    Raises:
        DataError: The batch size is below 1.
    """

    batch_sampler = None  # Lightning reads this attribute if there is a sampler

    def __init__(
        self,
        labels: np.ndarray,
        rows: np.ndarray,
        sampler: Sampler,
        batch_size: int,
        drop_last: bool,
        draw: Draw | None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"data.batch_size={batch_size} is invalid: expected an integer of at least 1")
        self.labels = np.asarray(labels, dtype=np.int64)
        self.rows = np.asarray(rows, dtype=np.int64)
        self.sampler, self.batch_size, self.drop_last, self.draw = sampler, batch_size, drop_last, draw

    def __len__(self) -> int:
        """Number of batches an epoch, the same on every rank."""
        steps = self.sampler.longest / self.batch_size
        return max(1, int(steps)) if self.drop_last else int(np.ceil(steps))

    def batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the batches of the current epoch: rows of the samples (B,) int64 and keys (B,) uint64."""
        rows, keys = self.rows[self.sampler.order()], self.sampler.keys()
        cuts = np.minimum(np.arange(len(self) + 1) * self.batch_size, len(rows))
        if len(cuts) > 2 and cuts[-1] == cuts[-2] and self.batch_size > 1:
            cuts[-2] -= 1  # this rank has one image fewer: its last batch takes one image from the batch before
        spans = [slice(start, stop) for start, stop in itertools.pairwise(cuts)]
        if len(rows) and spans and spans[-1].start == spans[-1].stop:
            spans[-1] = slice(len(rows) - 1, len(rows))  # batch size 1: the last image is repeated
        return [(rows[span], keys[span]) for span in spans]

    def batch(self, pixels: torch.Tensor, rows: np.ndarray, keys: np.ndarray, pin: bool) -> Batch:
        """Build a Batch from the pixels (B, S, S, 3) uint8 of `rows` (B,), with labels and augmentation parameters."""
        targets, indices = torch.from_numpy(self.labels[rows]), torch.from_numpy(rows)
        draws = self.draw(keys, pixels.shape[1]) if self.draw else None
        if pin:
            targets, indices = targets.pin_memory(), indices.pin_memory()
            if draws is not None and hasattr(draws, "pin_memory"):
                draws = draws.pin_memory()
        return Batch(pixels, targets, indices, draws)


def auto_workers(num_workers: int | str) -> int:
    """Return the number of worker processes that decode without a cache.

    "auto" is one for each core that this process may use, at most 8. With a cache, there are no worker processes: one
    thread copies rows of the memory map fast enough for any GPU, and transfer between processes takes longer than the
    copy.

    Raises:
        DataError: The value is neither "auto" nor an integer of at least 0.
    """
    if num_workers == "auto":
        return min(8, available_cpus())
    if not isinstance(num_workers, int) or num_workers < 0:
        raise DataError(f"data.num_workers={num_workers} is invalid: expected auto or an integer of at least 0")
    return num_workers


class _Buffers:
    """Memory for batches, reused once a batch is no longer referenced. Copying into new pages takes twice the time."""

    def __init__(self, keep: int) -> None:
        self.free: deque[np.ndarray] = deque(maxlen=keep)

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape))
        try:
            buffer = self.free.pop()
        except IndexError:
            buffer = np.empty(0, np.uint8)
        if buffer.size < size:
            buffer = np.empty(size, np.uint8)
        array = buffer[:size].reshape(shape)
        # Tensors that share memory with `array`, and their views, keep `array` alive.
        weakref.finalize(array, self.free.append, buffer).atexit = False
        return array


class PixelLoader(EpochBatches):
    """Batches from the pixel cache. A thread copies the next batches while the current one is used.

    Yields `Batch` with images (B, S, S, 3) uint8. Order and content do not depend on `prefetch`. An exception in the
    thread is raised at the position of its batch. Iterators are independent, and each can be abandoned at any point.

    Args:
        array: (N, S, S, 3) uint8, pixels of all samples.
        labels, rows, sampler, batch_size, drop_last, draw: See `EpochBatches`.
        prefetch: Number of batches prepared ahead; 0 prepares each batch on request.
        pin: Use page-locked memory; None does so if CUDA is available.
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
        super().__init__(labels, rows, sampler, batch_size, drop_last, draw)
        self.array, self.prefetch = array, prefetch
        self._buffers = _Buffers(keep=prefetch + 2)
        self.pin = torch.cuda.is_available() if pin is None else pin

    def __iter__(self) -> Iterator[Batch]:
        batches = self.batches()
        if not self.prefetch:
            for rows, keys in batches:
                yield self._make(rows, keys)
            return
        pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        ahead = deque(pool.submit(self._make, *batch) for batch in batches[: self.prefetch])
        try:
            for batch in batches[self.prefetch :]:
                ready = ahead.popleft().result()
                ahead.append(pool.submit(self._make, *batch))
                yield ready
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _make(self, rows: np.ndarray, keys: np.ndarray) -> Batch:
        shape = len(rows), *self.array.shape[1:]
        if self.pin:  # torch reuses page-locked memory
            pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            pixels = torch.from_numpy(self._buffers.take(shape))
        np.take(self.array, rows, axis=0, out=pixels.numpy(), mode="clip")  # mode="raise" makes an additional copy
        return self.batch(pixels, rows, keys, self.pin)


class DecodingLoader(EpochBatches):
    """The batches of `PixelLoader` without a cache: worker processes decode, and broken images are left out.

    Augmentation parameters depend on the position in the order, so a broken image does not change those of other
    images. A batch without readable images is skipped.

    Args:
        source, size, policy: See `cache.open_pixels`. All other arguments: see `PixelLoader`.
        num_workers: See `auto_workers`.
        on_broken: Called once for each broken image with (row, reason). Its exceptions are raised by the iterator.
            None logs the first broken image.

    Attributes:
        broken: Row -> reason of the broken images found so far.
    """

    def __init__(
        self,
        source: ImageSource,
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
        super().__init__(labels, rows, sampler, batch_size, drop_last, draw)
        self.broken: dict[int, str] = {}
        self.source, self.on_broken = source, on_broken
        self.pin = torch.cuda.is_available() if pin is None else pin
        workers = auto_workers(num_workers)
        self._loader = DataLoader(
            _DecodeDataset(source, size, policy),
            batch_sampler=_BatchIndices(self),
            collate_fn=_identity,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.pin,
            generator=torch.Generator(),  # so that the global random state does not depend on the cache setting
        )

    def __iter__(self) -> Iterator[Batch]:
        batches = self.batches()
        for (rows, keys), (pixels, readable, reasons) in zip(batches, self._loader, strict=True):
            for row, reason in reasons.items():
                self._record(row, reason)
            if len(readable):
                places = readable.numpy()
                yield self.batch(pixels, rows[places], keys[places], self.pin)

    def _record(self, row: int, reason: str) -> None:
        if row in self.broken:
            return
        if not self.broken and self.on_broken is None:
            path = self.source.samples[row].path
            log.warning("data: %s %s: it is left out, as are all images that cannot be read", path, reason)
        self.broken[row] = reason
        if self.on_broken is not None:
            self.on_broken(row, reason)


class _BatchIndices:
    """Batch sampler of the DataLoader: the rows of each batch of the current epoch."""

    def __init__(self, epoch: EpochBatches) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.epoch)

    def __iter__(self) -> Iterator[list[int]]:
        return (rows.tolist() for rows, _ in self.epoch.batches())


class _DecodeDataset(Dataset):
    """Decode the images of a batch in a worker process."""

    def __init__(self, source: ImageSource, size: int, policy: str) -> None:
        self.source, self.size, self.policy = source, size, policy

    def __getitems__(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor, dict[int, str]]:
        """Return pixels (n, S, S, 3) uint8 and positions in `rows` (n,) int64 of the readable images, and the reason
        for each of the others.
        """
        pixels, readable, reasons = [], [], {}
        for place, row in enumerate(rows):
            try:
                pixels.append(images.resize(self.source.read(row, self.size), self.size, self.policy))
                readable.append(place)
            except images.BrokenImage as error:
                reasons[row] = error.reason
        stack = np.stack(pixels) if pixels else np.empty((0, self.size, self.size, 3), np.uint8)
        return torch.from_numpy(stack), torch.tensor(readable, dtype=torch.int64), reasons


def _identity(batch: Any) -> Any:
    return batch
