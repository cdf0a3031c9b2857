"""Random flips. A flip is merged into a warp next to it."""

from typing import ClassVar

import numpy as np

from datamodules.augment.pixel_augmentation import PixelAugmentation2D
from datamodules.augment.slots import FILL, FLIP, NO_FILL, Slots, empty_slots


class _RandomFlip(PixelAugmentation2D):
    signs: ClassVar[tuple[float, float]]  # of x and y; -1 flips the axis

    def __init__(self, p: float = 0.5, same_on_batch: bool = False, keepdim: bool = False) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)

    def slots(self, keys: np.ndarray, aspect: float) -> Slots:
        """See `PixelAugmentation2D`."""
        slots = empty_slots(len(keys), 1)
        slots.kinds[:] = FLIP
        slots.numbers[:, 0, :9] = np.diag([*self.signs, 1.0]).ravel()
        slots.numbers[:, 0, FILL] = NO_FILL
        return slots


class RandomHorizontalFlip(_RandomFlip):
    """Flip left to right. Args: See `PixelAugmentation2D`."""

    signs = (-1.0, 1.0)


class RandomVerticalFlip(_RandomFlip):
    """Flip upside down. Args: See `PixelAugmentation2D`."""

    signs = (1.0, -1.0)
