"""Batch: what a loader yields."""

from typing import Any, NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One batch.

    From a loader, on the host: `images` are (B, S, S, 3) uint8 in [0, 255], RGB, with the memory layout of the pixel
    cache. After `ImageDataModule.on_after_batch_transfer`, on the device: `images` are (B, 3, S, S) float32 in [0, 1],
    channels_last, and `draws` is None.

    Attributes:
        images: See above.
        targets: (B,) int64 class indices, or (B, C) float32 probabilities after mixup or cutmix.
        indices: (B,) int64, rows of the data module's `samples`.
        draws: Augmentation parameters of each image (training, before the transfer hook), otherwise None.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    draws: Any = None
