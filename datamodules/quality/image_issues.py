"""Image issues: unusual formats, sizes and exposures of readable images, from the header and from small pixels."""

from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image

MIN_SIDE = 24  # px
MAX_ASPECT = 4.0  # an image of a higher aspect ratio fills only a small part of a padded square
MIN_DEVIATION = 2.0  # standard deviation in levels; an image with less has one colour
UPRIGHT = 1  # EXIF orientation of an upright image
_MODES = {"CMYK": "CMYK colours", "LAB": "LAB colours", "1": "black and white only", "F": "floating point values"}


def image_issues(file: Path) -> list[str]:
    """Return the issues of a readable file, in a few words each. Errors of Pillow are not caught.

    Issues: a suffix of another format, an animation, colours that are converted, transparency, an EXIF rotation, small
    sides and extreme aspect ratios.
    """
    with Image.open(file) as opened:
        found = []
        expected = Image.registered_extensions().get(file.suffix.lower())
        if expected != opened.format and {expected, opened.format} != {"JPEG", "MPO"}:  # MPO: JPEG with several images
            found.append(f"{opened.format} with suffix {file.suffix or 'none'}")
        if opened.format != "MPO" and getattr(opened, "is_animated", False):
            found.append("animation: only the first frame is used")
        if opened.mode.startswith("I"):
            found.append("16-bit values")
        elif opened.mode in _MODES:
            found.append(_MODES[opened.mode])
        if opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info:
            found.append("transparency")
        if opened.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT:
            found.append("rotated by EXIF")
        short, long = sorted(opened.size)
    if short < MIN_SIDE:
        found.append(f"shorter side below {MIN_SIDE} px")
    if long > MAX_ASPECT * short:
        found.append(f"aspect ratio above {MAX_ASPECT:g}")
    return found


def has_one_colour(pixels: np.ndarray) -> np.ndarray:
    """Whether images have one colour, e.g. of a covered lens: (B, S, S, 3) uint8 -> (B,) bool."""
    values = torch.from_numpy(np.array(pixels)).flatten(1, 2).float()
    spread: np.ndarray = values.std(1, correction=0).amax(1).numpy()
    return spread < MIN_DEVIATION
