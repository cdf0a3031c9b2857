"""Boxes of a photo: with a margin, and brought from the photo that was annotated to the one on disk; pure functions."""

import contextlib
import io
import math
from pathlib import Path

from PIL import Image

from datamodules.images import Box, BrokenImage

Size = tuple[int, int]  # width, height
_ORIENTATION = 0x0112


def widened(edges: tuple[float, float, float, float], margin: float, size: Size) -> Box:
    """Box in whole px, each side moved out by `margin` of the box's own width or height, cut at the photo's edge.

    >>> widened((10.0, 20.0, 110.0, 40.0), 0.1, (115, 100))
    (0, 18, 115, 42)
    """
    left, top, right, bottom = edges
    aside, above = margin * (right - left), margin * (bottom - top)
    return (
        max(0, math.floor(left - aside)),
        max(0, math.floor(top - above)),
        min(size[0], math.ceil(right + aside)),
        min(size[1], math.ceil(bottom + above)),
    )


def placed(box: Box, recorded: Size, upright: Size, orientation: int) -> Box:
    """Where a box lies in the photo on disk, once that stands upright.

    Photos get scaled down after they were annotated, and some tools ignore the EXIF note that a camera was held
    sideways. Whether this one did is seen from the recorded size: it is that of the photo before or after turning. A
    photo that is upside down, or square, does not tell; its boxes are taken to be those of the upright photo.

    Args:
        box: in px of the photo as recorded.
        recorded: width and height that were recorded with the boxes.
        upright: width and height of the photo on disk, turned as EXIF says.
        orientation: EXIF's number, 1 to 8.

    Raises:
        BrokenImage: the photo has another shape than the one that was annotated.

    >>> placed((0, 0, 100, 50), (400, 200), (200, 100), 1)
    (0, 0, 50, 25)
    >>> placed((0, 0, 100, 50), (400, 200), (200, 400), 6)
    (150, 0, 200, 100)
    """
    if not _alike(recorded, upright) and orientation in (5, 6, 7, 8):
        box, recorded = _turned(box, recorded, orientation), (recorded[1], recorded[0])
    if not _alike(recorded, upright):
        told, got = " x ".join(map(str, recorded)), " x ".join(map(str, upright))
        raise BrokenImage(f"has {got} pixels, but its boxes were drawn on {told}")
    left, top, right, bottom = (round(edge * upright[i % 2] / recorded[i % 2]) for i, edge in enumerate(box))
    left, top = min(left, upright[0] - 1), min(top, upright[1] - 1)  # at least one pixel is left
    return left, top, max(right, left + 1), max(bottom, top + 1)


def orientation(data: bytes) -> int:
    """EXIF's number for how a photo lies, 1 (upright) to 8."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as header:  # damaged EXIF is no EXIF
        return int(header.getexif().get(_ORIENTATION, 1))
    return 1


def _alike(recorded: Size, size: Size) -> bool:
    """Whether one is the other at some scale, up to the rounding of whole pixels."""
    scale = max(size) / max(recorded)
    return all(abs(got - told * scale) <= 2 for got, told in zip(size, recorded, strict=True))


def _turned(box: Box, size: Size, orientation: int) -> Box:
    """A box of the photo as it is stored, in the photo as it is shown."""
    left, top, right, bottom = box
    width, height = size
    return {
        5: (top, left, bottom, right),
        6: (height - bottom, left, height - top, right),
        7: (height - bottom, width - right, height - top, width - left),
        8: (top, width - right, bottom, width - left),
    }[orientation]


def header(file: Path) -> Size:
    """Width and height of a photo once it stands upright, read without decoding it; raises what Pillow raises."""
    with Image.open(file) as opened:
        width, height = opened.size
        turned = opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)
