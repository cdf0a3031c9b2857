"""The file of a pixel cache: how it is written, and how damage is found when it is opened.

Layout: one page of header, the pixels (N, S, S, 3) uint8 as they are indexed, then a tail of JSON. The header carries
the SHA-256 of itself and of the tail; the tail carries the CRC-32 of each MiB of pixels and why broken photos are
missing. All of it is checked at each opening. That costs one sequential read (2 to 4 GB/s a core once in the page
cache), which also brings the file into the page cache that the first epoch would otherwise fill photo by photo; and it
lets the writer do without fsync: pages lost in a power cut are found like any other damage.
"""

import contextlib
import hashlib
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FORMAT = 1  # part of the key: raise it when the layout, or what decoding and resizing make of a file, changes
MAGIC = b"litesort"
PAGE = 4096
BLOCK = 1 << 20


Shape = tuple[int, int, int, int]
Store = Callable[[int, np.ndarray], None]  # row, pixels (S, S, 3) uint8


class NoDisk(Exception):
    """The cache cannot be written where it should be; the message says why."""


@dataclass(frozen=True)
class Pixels:
    """Decoded photos, all of one size.

    array: (N, S, S, 3) uint8 RGB, row i is `source.samples[i]`; read-only where it is a map of a file.
    broken: row -> why that photo could not be read; such rows are grey.
    path: the file that is mapped, None where the pixels are in memory.
    """

    array: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)
    path: Path | None = None


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a full disk, a read-only folder and their like into NoDisk."""
    try:
        yield
    except OSError as error:
        raise NoDisk(os.strerror(error.errno) if error.errno else str(error)) from error


def write(path: Path, shape: Shape, about: dict[str, Any], fill: Callable[[Store], dict[int, str]]) -> None:
    """Write a cache file: all of it or, whatever happens on the way, nothing.

    shape: (N, S, S, 3). about: plain data for the header. fill: stores each row once, returns the broken rows.
    Raises NoDisk, before the first photo is decoded where there is no room. What `fill` raises passes through.
    """
    size = int(np.prod(shape))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors():
            file = temporary.open("x+b")
        with file:
            with disk_errors():
                _allocate(file, PAGE + size)
            broken = fill(_storing(file, size // shape[0]))
            with disk_errors():
                file.flush()
                blocks = _checksums(np.memmap(file, np.uint8, "r", PAGE, size))
                tail = json.dumps({"broken": broken, "blocks": blocks}).encode()
                header = {"shape": shape, "tail_bytes": len(tail), "tail_sha256": hashlib.sha256(tail).hexdigest()}
                page = json.dumps(about | header).encode().ljust(PAGE - 40)
                file.seek(PAGE + size)
                file.write(tail)
                file.seek(0)
                file.write(MAGIC + hashlib.sha256(page).digest() + page)
        with disk_errors():
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _allocate(file: BinaryIO, size: int) -> None:
    """Claim the room now, so that a disk without it is known before the work is done."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _storing(file: BinaryIO, row_bytes: int) -> Store:
    """Write rows, not map them: touching fresh pages of a map costs up to ten times as much."""
    lock = threading.Lock()

    def store(row: int, pixels: np.ndarray) -> None:
        with disk_errors(), lock:
            file.seek(PAGE + row * row_bytes)
            file.write(np.ascontiguousarray(pixels).data)

    return store


def _checksums(flat: np.ndarray) -> list[int]:
    with ThreadPoolExecutor() as pool:  # crc32 lets go of the GIL
        return list(pool.map(lambda start: zlib.crc32(flat[start : start + BLOCK].data), range(0, flat.size, BLOCK)))


def read_header(path: Path) -> dict[str, Any] | None:
    """Return the header of a cache file; None where it is damaged or none."""
    with path.open("rb") as file:
        page = file.read(PAGE)
    if len(page) != PAGE or page[:8] != MAGIC or page[8:40] != hashlib.sha256(page[40:]).digest():
        return None
    return json.loads(page[40:])


def read(path: Path) -> Pixels | None:
    """Map a cache file and check all of it; None where there is none or it is damaged."""
    try:
        header = read_header(path)
        if header is None:
            return None
        shape = tuple(header["shape"])
        size = int(np.prod(shape))
        if path.stat().st_size != PAGE + size + header["tail_bytes"]:
            return None
        with path.open("rb") as file:
            file.seek(PAGE + size)
            tail = file.read()
        if hashlib.sha256(tail).hexdigest() != header["tail_sha256"]:
            return None
        array = np.asarray(np.memmap(path, np.uint8, "r", PAGE, shape))
    except OSError:
        return None
    contents = json.loads(tail)
    if _checksums(array.reshape(-1)) != contents["blocks"]:
        return None
    return Pixels(array, {int(row): reason for row, reason in contents["broken"].items()}, path)
