"""Photos that nobody has labelled: a file, a folder or a pattern, read batch by batch in constant memory."""

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


class Read(NamedTuple):
    """Some files, read.

    Attributes:
        files: (B,) paths.
        pixels: (b, S, S, 3) uint8 of those that could be read, in order; b <= B.
        reasons: (B,) why a file could not be read; "" where it could.
    """

    files: list[Path]
    pixels: np.ndarray
    reasons: list[str]


def find_images(source: str | Path | None) -> Iterator[Path]:
    """Paths of the photos that a name stands for, in the same order on every machine; none is opened.

    Args:
        source: A file, whatever its suffix; a folder, of which all files with a picture suffix are taken, at any depth;
            or a pattern as shells know them ("*", "?", "[...]", "**").

    Raises:
        DataError: Nothing is there.
    """
    if not source:
        raise DataError(
            "source is not given: name a photo, a folder or a pattern, e.g. source=photos or source='*.jpg'"
        )
    path = Path(source).expanduser()
    if path.is_dir():
        found = images_below(path)
    elif path.exists():
        found = iter([path])
    elif glob.has_magic(str(path)):
        names = sorted(glob.iglob(str(path), recursive=True))  # noqa: PTH207  # pathlib takes no absolute patterns
        found = (Path(name) for name in names if not Path(name).is_dir())
    else:
        raise DataError(f"source={source} does not exist: give a photo, a folder or a pattern")
    first = next(found, None)
    if first is None:
        raise DataError(f"source={source} holds no photo: give a folder or a pattern with some")
    yield first
    yield from found


def read_batches(
    files: Iterator[Path], size: int, resize: str, batch_size: int = 32, workers: int = 2, ahead: int = 2
) -> Iterator[Read]:
    """Decode photos in threads, as many batches ahead of their use as `ahead` says, and no more.

    Args:
        files: Paths.
        size: Side of the square in pixels.
        resize: "pad", "squash" or "crop", as the network learned it.
        batch_size: Files a batch.
        workers: Threads.
        ahead: Batches in memory beside the one in use.

    Raises:
        DataError: A batch of no files, or no thread.
    """
    for key, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise DataError(f"{key}={value} is out of range: give 1 or more")

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
            yield Read(batch, np.stack(pixels) if pixels else empty, reasons)


def calibration_images(loader: Iterable[Any], count: int, batch_size: int = 8) -> list[np.ndarray]:
    """Copy photos that lie evenly over all that a loader yields, so that no class is left out.

    Args:
        loader: Batches that begin with images (B, S, S, 3) uint8, of known number.
        count: Photos wanted, above 0; where there are fewer, all are taken.
        batch_size: Photos a batch of the result.

    Returns:
        Batches (b, S, S, 3) uint8.

    Raises:
        DataError: The count is not above 0.
    """
    if count < 1:
        raise DataError(f"calibration_images={count} is out of range: give 1 or more")
    photos = [np.asarray(photo).copy() for images, *_ in loader for photo in _every(images, len(loader), count)]  # type: ignore[arg-type]
    places = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
    chosen = [photos[place] for place in places]
    return [np.stack(chosen[place : place + batch_size]) for place in range(0, len(chosen), batch_size)]


def _every(images: Any, batches: int, count: int) -> Any:
    """As many photos of a batch as are its share, or a few more."""
    share = -(-count // max(batches, 1))
    return images[:: max(1, len(images) // share)]
