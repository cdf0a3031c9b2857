"""The folder of a pixel cache: `pixels.npy`, mapped; `meta.json`; and `crc32.npy`, which only a whole check reads.

It is built under a hidden name, flushed to the disk, and renamed when it is complete. So opening it checks header and
sizes only, in milliseconds for any size; `damaged_rows` reads everything.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FORMAT = 2  # part of the key: raise it when the layout, or what decoding and resizing make of a file, changes

Shape = tuple[int, int, int, int]
Store = Callable[[int, np.ndarray], None]  # row, pixels (S, S, 3) uint8
Decode = Callable[[Store], dict[int, str]]  # stores each row once, returns the broken ones: row -> reason


@dataclass(frozen=True)
class Pixels:
    """Decoded images, all of one size.

    array: (N, S, S, 3) uint8 RGB, row i is `source.samples[i]`; read-only where it is a map of a file.
    broken: row -> why that image could not be read; such rows are grey.
    path: folder of the cache that is mapped; None where the pixels are in memory.
    root: folder that the images of a mapped cache come from.
    """

    array: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)
    path: Path | None = None
    root: str = ""


def write(folder: Path, shape: Shape, root: str, decode: Decode, is_current: Callable[[], bool]) -> None:
    """Write a cache folder: all of it or, whatever happens on the way, nothing. The caller holds its lock.

    Args:
        folder: replaced where it exists.
        shape: (N, S, S, 3).
        root: where the images come from, for the list of caches.
        decode: stores the pixels.
        is_current: asked after that; False means that images changed, and nothing is written.

    Raises:
        OSError: the folder cannot be written; before the first image is decoded where there is no room.
    """
    scratch, checksums = folder.with_name(f".{folder.name}.tmp"), np.zeros(shape[0], np.uint32)
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a build that was killed
        scratch.mkdir()
        array = np.lib.format.open_memmap(scratch / "pixels.npy", "w+", np.uint8, shape)
        _allocate(scratch / "pixels.npy")

        def store(row: int, pixels: np.ndarray) -> None:
            array[row] = pixels
            checksums[row] = zlib.crc32(array[row].data)

        broken = decode(store)
        if is_current():
            array.flush()  # the pixels are on the disk before the folder gets its name
            np.save(scratch / "crc32.npy", checksums)
            (scratch / "meta.json").write_text(json.dumps({"shape": shape, "root": root, "broken": broken}))
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _allocate(file: Path) -> None:
    """Claim the room first: a full disk is then an error now, not a bus error while the map is written."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def read(folder: Path) -> Pixels | None:
    """Map a cache whose header and sizes are right; None where there is none or it is damaged."""
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
    """Read all pixels; return the rows that differ from what was written, None where the cache cannot be opened."""
    try:
        checksums = np.load(folder / "crc32.npy")
    except (OSError, EOFError, ValueError):
        return None
    pixels = read(folder)
    if pixels is None or checksums.shape != pixels.array.shape[:1]:
        return None
    return [row for row, image in enumerate(pixels.array) if zlib.crc32(image.data) != checksums[row]]
