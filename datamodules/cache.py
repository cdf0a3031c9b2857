"""Decode once: the pixels of a whole source in one memory-mapped array that every epoch, run and sweep job shares.

`python -m datamodules.cache` lists what is cached and cleans up.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from datamodules import DataError, cache_file, images
from datamodules.cache_build import PhotoSource, fill
from datamodules.cache_file import NoDisk, Pixels, Shape, Store, disk_errors
from datamodules.cache_key import DigestIndex

__all__ = ["PhotoSource", "Pixels", "default_cache_dir", "open_pixels"]

log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Return `$LITESORT_CACHE`, else `$XDG_CACHE_HOME/litesort`, else `~/.cache/litesort`."""
    if own := os.environ.get("LITESORT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "litesort"


def pixel_dir(cache_dir: str | Path | None) -> Path:
    """Return the folder of the pixel caches."""
    return (Path(cache_dir).expanduser() if cache_dir else default_cache_dir()) / "pixels"


def open_pixels(
    source: PhotoSource,
    size: int,
    policy: str,
    *,
    where: str = "disk",
    cache_dir: str | Path | None = None,
    budget_gb: float = 20.0,
    workers: int | None = None,
    progress: bool = True,
) -> Pixels | None:
    """Return the source's photos at size x size, from the cache or built now; None where there can be no cache.

    The cache is named by content (files, boxes, order, size, policy): a changed photo or policy is another cache. Of
    several processes that ask at once, one builds and the others wait. A damaged file is built again.

    where: "disk" maps a file, shared by all processes; "memory" keeps the pixels in this process.
    cache_dir: None is `default_cache_dir()`.
    budget_gb: a larger cache is not built: one line says so and None is returned. A disk that cannot be written (full,
        read-only) costs one line too; the pixels then stay in memory if they fit into half of what is free.
    workers: threads that decode; None is one a core.
    """
    if where not in ("disk", "memory"):
        raise DataError(f"data.cache={where} is not known: use disk, memory or off")
    if policy not in images.POLICIES:
        raise DataError(f"data.resize={policy} is not known: use one of {', '.join(images.POLICIES)}")
    if size < 1:
        raise DataError(f"data.size={size} is not a size: use 1 or more pixels, e.g. data.size=128")
    if not source.samples:
        raise DataError("data: there are no photos to read: check data.root")
    shape = (len(source.samples), size, size, 3)
    need = float(np.prod(shape, dtype=np.float64)) / 1e9
    if need > budget_gb:
        log.warning(
            "data.cache: %d photos at %d px take %.3g GB, more than data.cache_budget_gb=%g: decoding on the fly",
            *(shape[0], size, need, budget_gb),
        )
        return None
    request = _Request(source, size, policy, workers, progress)
    if where == "disk":
        folder = pixel_dir(cache_dir)
        try:
            return _on_disk(folder, request)
        except NoDisk as error:
            log.warning("data.cache: no cache in %s (%s): data.cache_dir=FOLDER names another place", folder, error)
    return _in_memory(request, need)


@dataclass(frozen=True)
class _Request:
    source: PhotoSource
    size: int
    policy: str
    workers: int | None
    progress: bool

    @property
    def shape(self) -> Shape:
        return len(self.source.samples), self.size, self.size, 3

    def fill(self, store: Store) -> dict[int, str]:
        return fill(store, self.source, self.size, self.policy, self.workers, self.progress)

    def key(self, index: DigestIndex) -> str:
        return index.key(self.size, self.policy, self.workers, self.progress)


class _Changed(Exception):
    """A photo changed while the cache was being built."""


def _on_disk(folder: Path, request: _Request) -> Pixels:
    with suppress(OSError):  # where it cannot be made, a cache that is there already may still be read
        folder.mkdir(parents=True, exist_ok=True)
    index = DigestIndex(request.source, folder)
    for _ in range(3):
        key = request.key(index)
        path = folder / f"{request.policy}-{request.size}px-{key}.pixels"
        if pixels := _open(path):
            return pixels
        with _alone(path):
            if pixels := _open(path):  # built while this process waited
                return pixels
            with suppress(_Changed):
                _build(path, key, index, request)
                if pixels := cache_file.read(path):
                    return pixels
    raise NoDisk("photos keep changing while they are read")


def _build(path: Path, key: str, index: DigestIndex, request: _Request) -> None:
    def fill_and_check(store: Store) -> dict[int, str]:
        broken = request.fill(store)
        if request.key(index) != key:  # pixels of the new photo must not stand under the name of the old one
            raise _Changed
        return broken

    with suppress(OSError):
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a build that was killed: the lock is ours
            leftover.unlink()
    cache_file.write(path, request.shape, {"source": index.root[-500:]}, fill_and_check)


def _open(path: Path) -> Pixels | None:
    pixels = cache_file.read(path)
    if pixels is None and path.exists():
        log.warning("data.cache: %s is damaged: building it again", path)
    if pixels:
        with suppress(OSError):
            os.utime(path)  # "last used", for the clean-up
    return pixels


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of one cache file; a process that dies lets go of it."""
    lock = FileLock(f"{path}.lock")
    with disk_errors():
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("data.cache: waiting for another process, which is building %s", path)
            lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def _in_memory(request: _Request, need: float) -> Pixels | None:
    free = free_memory_gb()
    if need > free / 2:
        log.warning(
            "data.cache: %.3g GB of pixels do not fit into half of the free memory (%.3g GB): decoding on the fly",
            *(need, free),
        )
        return None
    array = np.empty(request.shape, np.uint8)
    return Pixels(array, request.fill(array.__setitem__))


def free_memory_gb() -> float:
    """Return the memory that can be had without swapping, in GB; infinite where the system does not say."""
    with suppress(OSError, ValueError, StopIteration), Path("/proc/meminfo").open() as lines:
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024 / 1e9
    return float("inf")


if __name__ == "__main__":
    from datamodules.cache_clean import main

    main()
