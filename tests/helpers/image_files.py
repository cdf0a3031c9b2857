"""Smooth images and their files, for the tests of the decoder."""

import io

import numpy as np
from PIL import Image


def smooth_image(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A smooth image, (height, width, 3) uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    """The file of an image in a format of Pillow."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()
