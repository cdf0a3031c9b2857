"""Image issues: unusual formats, sizes and exposures of readable images, from the header and from small pixels."""

from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image

SMALL = 24  # px, shorter side
LONG = 4.0  # aspect ratio above which an image fills only a small part of a padded square
PLAIN = 2.0  # standard deviation in levels, below which an image has one colour
UPRIGHT = 1  # EXIF orientation of an upright image
_MODES = {"CMYK": "CMYK colours", "LAB": "LAB colours", "1": "black and white only", "F": "floating point values"}


def image_issues(file: Path) -> list[str]:
    """Return what is unusual about a readable file, in a few words each. Raises what Pillow raises.

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
    if short < SMALL:
        found.append(f"shorter side below {SMALL} px")
    if long > LONG * short:
        found.append(f"aspect ratio above {LONG:g}")
    return found


def plain(pixels: np.ndarray) -> np.ndarray:
    """(B, S, S, 3) uint8 -> (B,) bool: images of one colour, e.g. of a covered lens."""
    values = torch.from_numpy(np.array(pixels)).flatten(1, 2).float()
    spread: np.ndarray = values.std(1, correction=0).amax(1).numpy()
    return spread < PLAIN
