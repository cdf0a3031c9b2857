"""Pixel cache: decode a source once into one memory-mapped array that epochs, runs and sweep jobs share.

`python -m datamodules.cache` lists, cleans and verifies the caches.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from datamodules.cache import store
from datamodules.cache.build import ImageSource, fill
from datamodules.cache.config import CacheConfig
from datamodules.cache.key import DigestIndex
from datamodules.cache.store import Decode, Pixels, Shape
from litesort.errors import DataError

__all__ = ["ImageSource", "Pixels", "cache_folder", "default_cache_dir", "open_pixels"]

log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Return `$LITESORT_CACHE`, else `$XDG_CACHE_HOME/litesort`, else `~/.cache/litesort`."""
    if own := os.environ.get("LITESORT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "litesort"


def cache_folder(cache_dir: str | Path | None) -> Path:
    """Return a configured cache folder (`data.cache_dir`), or the default one for None."""
    return Path(cache_dir).expanduser() if cache_dir else default_cache_dir()


def pixel_dir(cache_dir: str | Path | None) -> Path:
    """Return the folder of the pixel caches."""
    return cache_folder(cache_dir) / "pixels"


def open_pixels(
    source: ImageSource,
    size: int,
    policy: str,
    config: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Pixels | None:
    """Return the images of a source at size x size px, from the cache if it exists. Otherwise, build the cache.

    The name of a cache contains a hash of file contents, boxes, order, size and policy. So a changed image or policy
    gives a new cache. If several processes need the same cache, one builds it and the others wait. A damaged cache is
    built again.

    Args:
        source: The images.
        size: Side of the square, px, at least 1.
        policy: "pad", "squash" or "crop".
        config: Place, folder and largest size of the cache; `cache` is "disk" or "memory".
        workers: Threads that decode; None is one per core.
        progress: Show a progress bar.

    Returns:
        The pixels (N, size, size, 3) uint8, or None if they exceed `cache_budget_gb`. If the disk is full or read-only,
        the pixels stay in memory, or None is returned if they need more than half of the free memory. Each of these
        cases logs a warning.

    Raises:
        DataError: The source has no images.
    """
    if not source.samples:
        raise DataError("data: the source has no images: check data.root")
    shape = (len(source.samples), size, size, 3)
    need = math.prod(shape) / 1e9
    if need > config.cache_budget_gb:
        log.warning(
            "data.cache: %d images at %d px take %.3g GB, more than data.cache_budget_gb=%g: decoding in each epoch",
            *(shape[0], size, need, config.cache_budget_gb),
        )
        return None

    decode = partial(fill, source=source, size=size, policy=policy, workers=workers, progress=progress)
    if config.cache == "disk":
        folder = pixel_dir(config.cache_dir)
        with suppress(OSError):  # an existing cache can still be read if the folder cannot be created
            folder.mkdir(parents=True, exist_ok=True)
        index = DigestIndex(source, folder)

        def path_of() -> Path:
            return folder / f"{policy}-{size}px-{index.key(size, policy, workers, progress)}"

        try:
            return _open_or_build(path_of, shape, index.root[-500:], decode)
        except OSError as error:
            hint = "set data.cache_dir=FOLDER to another folder"
            log.warning("data.cache: cannot build a cache in %s (%s): %s", folder, error.strerror or error, hint)
    if need > (free := free_memory_gb()) / 2:
        log.warning(
            "data.cache: %.3g GB of pixels need more than half of the free memory (%.3g GB): decoding in each epoch",
            *(need, free),
        )
        return None
    array = np.empty(shape, np.uint8)
    return Pixels(array, decode(array.__setitem__))


def _open_or_build(path_of: Callable[[], Path], shape: Shape, root: str, decode: Decode, tries: int = 3) -> Pixels:
    """Open the cache or build it. Try again if images change while it is built."""
    path = path_of()
    if pixels := _open(path):
        return pixels
    with _locked(path):
        if pixels := _open(path):  # another process built it
            return pixels
        store.write(path, shape, root, decode, is_current=lambda: path_of() == path)
        if pixels := store.read(path):
            return pixels
    if tries == 1:
        raise OSError("images keep changing while they are read")
    return _open_or_build(path_of, shape, root, decode, tries - 1)


def _open(path: Path) -> Pixels | None:
    pixels = store.read(path)
    if pixels is None and path.exists():
        log.warning("data.cache: %s is damaged: building it again", path)
    if pixels:
        with suppress(OSError):
            os.utime(path)  # time of last use, for `python -m datamodules.cache clean`
    return pixels


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of one cache. The system releases the lock if the process dies."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("data.cache: %s is locked by another process, which builds it; waiting", path)
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def free_memory_gb() -> float:
    """Return the memory that is available without swapping, GB; infinity if the system does not report it."""
    with suppress(OSError, ValueError, StopIteration), Path("/proc/meminfo").open() as lines:
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024 / 1e9
    return float("inf")
