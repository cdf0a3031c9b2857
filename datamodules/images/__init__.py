"""Image decoding and conversion to squares: one policy for cache, evaluation, export and prediction."""

from datamodules.images.decode import (
    MAX_BYTES,
    MAX_PIXELS,
    Box,
    BrokenImage,
    content_digest,
    load,
    read_bytes,
    read_image,
)
from datamodules.images.resize import GREY, POLICIES, resize

__all__ = [
    "GREY",
    "MAX_BYTES",
    "MAX_PIXELS",
    "POLICIES",
    "Box",
    "BrokenImage",
    "content_digest",
    "load",
    "read_bytes",
    "read_image",
    "resize",
]
