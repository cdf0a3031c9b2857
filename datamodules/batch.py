"""What a loader hands over: one batch, on its way from the host to the device."""

from typing import Any, NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One batch.

    From a loader, on the host: images (B, S, S, 3) uint8 in [0, 255], RGB, laid out as in the pixel cache.
    After `ImageDataModule.on_after_batch_transfer`, on the device: images (B, 3, S, S) float32 in [0, 1],
    channels_last, and draws None.

    targets: (B,) int64 class indices, or (B, C) float32 probabilities once images were mixed.
    indices: (B,) int64, rows of the data module's `samples`.
    draws: what the augmentation will do to each image (training, before the transfer hook only), else None.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    draws: Any = None
