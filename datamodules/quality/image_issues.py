"""What is unusual about a photo file that can be read: seen from its header, and from its pixels made small."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

SMALL = 24  # px of the shorter side below which there is little to see
LONG = 4.0  # width over height, or height over width, above which little is left of it in a square
PLAIN = 2.0  # levels of standard deviation below which a photo is one colour
UPRIGHT = 1  # EXIF's number for a photo that lies as it is stored
_MODES = {"CMYK": "CMYK colours", "LAB": "LAB colours", "1": "black and white only", "F": "floating point values"}


def image_issues(file: Path) -> list[str]:
    """What the header says of a file that decodes: a few words each; raises what Pillow raises.

    A suffix that is another format's, an animation, colours that are converted, transparency that becomes grey, a photo
    that EXIF turns, and sides that are tiny or of a ratio beyond 4.
    """
    with Image.open(file) as opened:
        found = []
        called = Image.registered_extensions().get(file.suffix.lower())
        if called != opened.format and {called, opened.format} != {"JPEG", "MPO"}:  # a JPEG of several pictures
            found.append(f"{opened.format} called {file.suffix or 'nothing'}")
        if opened.format != "MPO" and getattr(opened, "is_animated", False):
            found.append("animation, of which the first picture counts")
        if opened.mode.startswith("I"):
            found.append("16-bit values")
        elif opened.mode in _MODES:
            found.append(_MODES[opened.mode])
        if opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info:
            found.append("transparency")
        if opened.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT:
            found.append("turned by EXIF")
        short, long = sorted(opened.size)
    if short < SMALL:
        found.append(f"shorter side below {SMALL} px")
    if long > LONG * short:
        found.append(f"longer than {LONG:g} times its width")
    return found


def plain(pixels: np.ndarray) -> np.ndarray:
    """(B, S, S, 3) uint8 -> (B,) bool: photos of one colour: a covered lens, a frame never drawn."""
    spread: np.ndarray = pixels.std(axis=(1, 2)).max(axis=1)
    return spread < PLAIN
