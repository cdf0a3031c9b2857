"""Decode and resize all images of a source in threads, with a progress bar."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from datamodules import images
from datamodules.cache.store import Store
from litesort.system import available_cpus

CHUNK = 8  # images per task: few enough for a smooth progress bar, enough for a small overhead


class ImageSource(Protocol):
    """Interface of a source that caches and loaders use. Each sample has a unique `.path`, a `.box` and a `.frame`."""

    samples: list[Any]

    def read(self, index: int, min_side: int | None = None) -> np.ndarray: ...
    def digest(self, index: int) -> bytes: ...
    def file(self, index: int) -> Path | None: ...


def parallel(
    task: Callable[[int], Any], indices: Sequence[int], label: str, workers: int | None = None, progress: bool = True
) -> None:
    """Call `task(index)` for each index in threads (decoders release the GIL). The first exception stops all tasks."""
    if not len(indices):
        return
    chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]

    def run(chunk: Sequence[int]) -> int:
        for index in chunk:
            task(index)
        return len(chunk)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    pool = ThreadPoolExecutor(workers or available_cpus(), thread_name_prefix="images")
    try:
        with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
            bar_task = bar.add_task(label, total=len(indices))
            for done in pool.map(run, chunks):
                bar.advance(bar_task, done)
    finally:
        pool.shutdown(cancel_futures=True)


def fill(
    store: Store, source: ImageSource, size: int, policy: str, workers: int | None = None, progress: bool = True
) -> dict[int, str]:
    """Store the pixels of each sample, (size, size, 3) uint8.

    Returns:
        Row -> reason for each broken image; its pixels are grey.
    """
    broken: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            pixels = images.resize(source.read(index, size), size, policy)
        except images.BrokenImage as error:
            pixels = np.full((size, size, 3), images.GREY, np.uint8)
            broken[index] = error.reason
        store(index, pixels)

    parallel(decode, range(len(source.samples)), f"Decoding images at {size} px", workers, progress)
    return dict(sorted(broken.items()))
