"""Convert an image to a square: pad, squash or crop."""

import numpy as np
import torch
from torch.nn import functional as F

POLICIES = ("pad", "squash", "crop")
GREY = 128  # close to the mean of images, unlike black or white


def resize(image: np.ndarray, size: int, policy: str) -> np.ndarray:
    """Convert an image to a square with antialiased bilinear interpolation in uint8 (within one level of Pillow).

    Args:
        image: (H, W, 3) uint8, sides of at least 1.
        size: Side of the square, px.
        policy: "pad" keeps the whole image and its aspect ratio, centred on grey 128. "squash" keeps the whole image
            without its aspect ratio. "crop" keeps the central square.

    Returns:
        (size, size, 3) uint8.

    Raises:
        ValueError: The policy is unknown.
    """
    height, width = image.shape[:2]
    if policy == "squash":
        return _interpolate(image, size, size)
    if policy == "crop":  # crop first: fewer pixels to interpolate
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _interpolate(image[top : top + side, left : left + side], size, size)
    if policy != "pad":
        raise ValueError(f"policy={policy!r} is invalid: expected one of {', '.join(POLICIES)}")
    scale = size / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    square = np.full((size, size, 3), GREY, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = _interpolate(image, height, width)
    return square


def _interpolate(image: np.ndarray, height: int, width: int) -> np.ndarray:
    image = image if image.flags.writeable else image.copy()  # torch does not support read-only arrays
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # channels_last; permute()[None] takes twice the time
    resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
    return resized.permute(1, 2, 0).contiguous().numpy()
