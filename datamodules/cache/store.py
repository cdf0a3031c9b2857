"""Files of a pixel cache: `pixels.npy` (memory map), `meta.json`, and `crc32.npy` (for a full check).

A cache is built in a hidden folder, flushed to disk, and renamed when it is complete. So opening a cache checks only
header and sizes, which takes milliseconds. `damaged_rows` reads all pixels.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FORMAT = 2  # part of the key: increase it when the layout, decoding or resizing changes

Shape = tuple[int, int, int, int]
Store = Callable[[int, np.ndarray], None]  # row, pixels (S, S, 3) uint8
Decode = Callable[[Store], dict[int, str]]  # stores each row once; returns row -> reason of broken images


@dataclass(frozen=True)
class Pixels:
    """Decoded images of one size.

    Attributes:
        array: (N, S, S, 3) uint8 RGB; row i is `source.samples[i]`. Read-only if it is a memory map.
        broken: Row -> reason why the image cannot be read. The pixels of such a row are grey.
        path: Folder of the memory-mapped cache; None if the pixels are in memory.
        root: Folder of the images of a memory-mapped cache.
    """

    array: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)
    path: Path | None = None
    root: str = ""


def write(folder: Path, shape: Shape, root: str, decode: Decode, is_current: Callable[[], bool]) -> None:
    """Write a cache folder, completely or not at all. The caller holds its lock.

    Args:
        folder: Folder of the cache; an existing one is replaced.
        shape: (N, S, S, 3).
        root: Folder of the images, shown in the list of caches.
        decode: Stores the pixels.
        is_current: Called after decoding. If it returns False, images have changed and nothing is written.

    Raises:
        OSError: The folder cannot be written. If the disk is too small, this is raised before the first image is
            decoded.
    """
    scratch, checksums = folder.with_name(f".{folder.name}.tmp"), np.zeros(shape[0], np.uint32)
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
        scratch.mkdir()
        array = np.lib.format.open_memmap(scratch / "pixels.npy", "w+", np.uint8, shape)
        _allocate(scratch / "pixels.npy")

        def store(row: int, pixels: np.ndarray) -> None:
            array[row] = pixels
            checksums[row] = zlib.crc32(array[row].data)

        broken = decode(store)
        if is_current():
            array.flush()  # pixels are on disk before the folder gets its final name
            np.save(scratch / "crc32.npy", checksums)
            (scratch / "meta.json").write_text(json.dumps({"shape": shape, "root": root, "broken": broken}))
            shutil.rmtree(folder, ignore_errors=True)  # a damaged cache
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _allocate(file: Path) -> None:
    """Reserve the disk space. Without this, a full disk causes a bus error while the map is written."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def read(folder: Path) -> Pixels | None:
    """Map a cache; None if it does not exist, or if its header or sizes are wrong."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        array = np.load(folder / "pixels.npy", mmap_mode="r")
        length = (folder / "pixels.npy").stat().st_size
        if (list(array.shape), array.dtype, length) != (meta["shape"], np.uint8, array.offset + array.nbytes):
            return None
        broken = {int(row): str(reason) for row, reason in meta["broken"].items()}
        return Pixels(np.asarray(array), broken, folder, str(meta["root"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None


def damaged_rows(folder: Path) -> list[int] | None:
    """Read all pixels and return the rows with a wrong checksum; None if the cache cannot be opened."""
    try:
        checksums = np.load(folder / "crc32.npy")
    except (OSError, EOFError, ValueError):
        return None
    pixels = read(folder)
    if pixels is None or checksums.shape != pixels.array.shape[:1]:
        return None
    return [row for row, image in enumerate(pixels.array) if zlib.crc32(image.data) != checksums[row]]
