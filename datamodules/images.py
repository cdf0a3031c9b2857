"""Photo file -> uint8 RGB pixels (signatures; the bodies follow)."""

from pathlib import Path

import numpy as np

Box = tuple[int, int, int, int]  # left, top, right, bottom, pixels of the upright photo (EXIF applied)
POLICIES = ("pad", "squash", "crop")
MAX_PIXELS = 100_000_000


class BrokenImage(Exception):
    """A file that cannot be read as a photo; `reason` is one line that says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def content_digest(path: str | Path, box: Box | None = None) -> bytes:
    """16 bytes of the file's content and the box; OSError where the file cannot be read. For `Source.digest(i)`."""
    raise NotImplementedError


def read_image(
    file: str | Path | bytes, *, box: Box | None = None, min_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright; BrokenImage. `Source.read(i, min_side)` is this with the sample's file and box."""
    raise NotImplementedError


def resize(image: np.ndarray, size: int, policy: str) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3) uint8."""
    raise NotImplementedError


def load(
    file: str | Path | bytes, size: int, policy: str, *, box: Box | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read and resize: (size, size, 3) uint8, equal to the cache's pixels."""
    raise NotImplementedError
