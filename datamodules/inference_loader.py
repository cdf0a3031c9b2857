"""Inference loader: read unlabelled images from a file, a folder or a pattern, in batches and constant memory."""

import glob
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules import images
from datamodules.sources.folder import images_below
from litesort.errors import DataError


class FileBatch(NamedTuple):
    """A batch of files.

    Attributes:
        files: (B,) paths.
        pixels: (b, S, S, 3) uint8, the readable images in order, b <= B.
        reasons: (B,) why a file cannot be read; "" for readable files.
    """

    files: list[Path]
    pixels: np.ndarray
    reasons: list[str]


def find_images(source: str | Path | None) -> Iterator[Path]:
    """Yield the paths of images, in the same order on every machine. No file is opened.

    Args:
        source: A file with any suffix; a folder, of which all image files at any depth are used; or a shell pattern
            ("*", "?", "[...]", "**").

    Raises:
        DataError: No file is found.
    """
    if not source:
        raise DataError("source is not set: give an image, a folder or a pattern, e.g. source=photos or source='*.jpg'")
    path = Path(source).expanduser()
    if path.is_dir():
        found = images_below(path)
    elif path.exists():
        found = iter([path])
    elif glob.has_magic(str(path)):
        names = sorted(glob.iglob(str(path), recursive=True))  # noqa: PTH207  # pathlib takes no absolute patterns
        found = (Path(name) for name in names if not Path(name).is_dir())
    else:
        raise DataError(f"source={source} does not exist: give an image, a folder or a pattern")
    first = next(found, None)
    if first is None:
        raise DataError(f"source={source} contains no image: give a folder or a pattern with images")
    yield first
    yield from found


def read_batches(
    files: Iterator[Path], size: int, resize: str, batch_size: int = 32, workers: int = 2, ahead: int = 2
) -> Iterator[FileBatch]:
    """Decode images in threads, at most `ahead` batches in advance.

    Args:
        files: Paths.
        size: Side of the square, px.
        resize: "pad", "squash" or "crop", as in training.
        batch_size: Files a batch, at least 1.
        workers: Threads, at least 1.
        ahead: Batches in memory in addition to the current one.

    Raises:
        DataError: `batch_size` or `workers` is below 1.
    """
    for key, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise DataError(f"{key}={value} is invalid: expected an integer of at least 1")

    def read(file: Path) -> np.ndarray | str:
        try:
            return images.load(file, size, resize)
        except images.BrokenImage as error:
            return error.reason

    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[list[Path], list[Future[np.ndarray | str]]]] = deque()
        while True:
            while len(waiting) <= ahead and (batch := list(islice(files, batch_size))):
                waiting.append((batch, [pool.submit(read, file) for file in batch]))
            if not waiting:
                return
            batch, futures = waiting.popleft()
            results = [future.result() for future in futures]
            pixels = [result for result in results if isinstance(result, np.ndarray)]
            empty = np.empty((0, size, size, 3), np.uint8)
            reasons = [result if isinstance(result, str) else "" for result in results]
            yield FileBatch(batch, np.stack(pixels) if pixels else empty, reasons)


def calibration_images(loader: Iterable[Any], count: int, batch_size: int = 8) -> list[np.ndarray]:
    """Copy images at regular intervals from all batches of a loader, since a loader may be sorted by class.

    Args:
        loader: Yields tuples whose first item is images (B, S, S, 3) uint8. It has a length.
        count: Number of images, at least 1. If the loader has fewer, all are used.
        batch_size: Images a batch of the result.

    Returns:
        Batches (b, S, S, 3) uint8.

    Raises:
        DataError: The count is below 1.
    """
    if count < 1:
        raise DataError(f"calibration_images={count} is invalid: expected an integer of at least 1")
    taken = [np.asarray(image).copy() for batch, *_ in loader for image in _take_evenly(batch, len(loader), count)]  # type: ignore[arg-type]
    places = np.linspace(0, len(taken) - 1, min(count, len(taken))).round().astype(int)
    chosen = [taken[place] for place in places]
    return [np.stack(chosen[place : place + batch_size]) for place in range(0, len(chosen), batch_size)]


def _take_evenly(batch: Any, batches: int, count: int) -> Any:
    """Return at least count / batches images of a batch, if it has that many, at regular intervals."""
    share = -(-count // max(batches, 1))
    return batch[:: max(1, len(batch) // share)]
