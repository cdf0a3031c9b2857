"""Bring an image to a square: pad, squash or crop."""

import numpy as np
import torch
from torch.nn import functional as F

POLICIES = ("pad", "squash", "crop")


GREY = 128  # neutral: neither black nor white, which are colours of bags and paper, and near the mean of photos


def resize(image: np.ndarray, size: int, policy: str) -> np.ndarray:
    """Bring a photo to a square by antialiased bilinear interpolation in uint8 (as PIL's, within one level).

    image: (H, W, 3) uint8, sides of 1 or more. Returns (size, size, 3) uint8.
    policy: "pad" keeps the whole object and its shape, centred on grey 128; "squash" keeps the whole object, not its
        shape; "crop" keeps the shape of the central square and loses the rest.
    """
    height, width = image.shape[:2]
    if policy == "squash":
        return _interpolate(image, size, size)
    if policy == "crop":  # cut first: the same picture as resizing the short side and then cutting, at any aspect ratio
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _interpolate(image[top : top + side, left : left + side], size, size)
    if policy != "pad":
        raise ValueError(f"Expected argument `policy` to be one of {POLICIES}, but got {policy!r}")
    scale = size / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    square = np.full((size, size, 3), GREY, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = _interpolate(image, height, width)
    return square


def _interpolate(image: np.ndarray, height: int, width: int) -> np.ndarray:
    image = image if image.flags.writeable else image.copy()  # torch knows no read-only arrays
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # seen as channels_last; permute()[None] costs twice
    resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
    return resized.permute(1, 2, 0).contiguous().numpy()
