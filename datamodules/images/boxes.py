"""Bounding boxes: add a margin, and map from the annotated image to the file on disk. Pure functions."""

import contextlib
import io
import math
from pathlib import Path

from PIL import ExifTags, Image

from datamodules.images import Box, BrokenImage

Size = tuple[int, int]  # width, height


def add_margin(edges: tuple[float, float, float, float], margin: float, size: Size) -> Box:
    """Widen a box on each side by `margin` times its width or height, round outwards to px, and clip it to the image.

    >>> add_margin((10.0, 20.0, 110.0, 40.0), 0.1, (115, 100))
    (0, 18, 115, 42)
    """
    left, top, right, bottom = edges
    horizontal, vertical = margin * (right - left), margin * (bottom - top)
    return (
        max(0, math.floor(left - horizontal)),
        max(0, math.floor(top - vertical)),
        min(size[0], math.ceil(right + horizontal)),
        min(size[1], math.ceil(bottom + vertical)),
    )


def map_to_file(box: Box, recorded: Size, upright: Size, orientation: int) -> Box:
    """Map a box from the annotated image to the upright image on disk.

    The file may have been scaled after annotation, and some annotation tools ignore the EXIF orientation. The annotated
    size shows whether a box refers to the image before or after rotation. For square images and rotations by 180
    degrees, both sizes are the same; the box is assumed to refer to the upright image.

    Args:
        box: In px of the annotated image.
        recorded: Width and height of the annotated image.
        upright: Width and height of the image on disk after EXIF rotation.
        orientation: EXIF orientation, 1 to 8.

    Returns:
        The box in px of the upright image on disk, at least 1 px wide and high.

    Raises:
        BrokenImage: The aspect ratios of the annotated image and the file differ.

    >>> map_to_file((0, 0, 100, 50), (400, 200), (200, 100), 1)
    (0, 0, 50, 25)
    >>> map_to_file((0, 0, 100, 50), (400, 200), (200, 400), 6)
    (150, 0, 200, 100)
    """
    if not _same_aspect_ratio(recorded, upright) and orientation in (5, 6, 7, 8):
        box, recorded = _rotated(box, recorded, orientation), (recorded[1], recorded[0])
    if not _same_aspect_ratio(recorded, upright):
        expected, actual = " x ".join(map(str, recorded)), " x ".join(map(str, upright))
        raise BrokenImage(f"has {actual} pixels, but its boxes refer to {expected} pixels")
    left, top, right, bottom = (round(edge * upright[i % 2] / recorded[i % 2]) for i, edge in enumerate(box))
    left, top = min(left, upright[0] - 1), min(top, upright[1] - 1)  # at least one pixel remains
    return left, top, max(right, left + 1), max(bottom, top + 1)


def orientation(data: bytes) -> int:
    """Return the EXIF orientation of an image, 1 (upright) to 8."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as header:  # damaged EXIF is ignored
        return int(header.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _same_aspect_ratio(recorded: Size, size: Size) -> bool:
    """Whether the aspect ratios are equal up to rounding to whole pixels."""
    scale = max(size) / max(recorded)
    return all(abs(actual - expected * scale) <= 2 for actual, expected in zip(size, recorded, strict=True))


def _rotated(box: Box, size: Size, orientation: int) -> Box:
    """Map a box from the stored image to the displayed image."""
    left, top, right, bottom = box
    width, height = size
    return {
        5: (top, left, bottom, right),
        6: (height - bottom, left, height - top, right),
        7: (height - bottom, width - right, height - top, width - left),
        8: (top, width - right, bottom, width - left),
    }[orientation]


def upright_size(file: Path) -> Size:
    """Return width and height of the upright image without decoding it. Raises what Pillow raises."""
    with Image.open(file) as opened:
        width, height = opened.size
        swapped = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (height, width) if swapped else (width, height)
