"""RandomResizedCrop."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.augment.geometry import crop_matrices
from datamodules.augment.pixel_augmentation import PixelAugmentation2D, bounds
from datamodules.augment.slots import FILL, NO_FILL, WARP, Slots, empty_slots
from litesort.keyed_random import boxes, uniforms

_BOX = 0  # stream of random numbers


class RandomResizedCrop(PixelAugmentation2D):
    """Stretch a random box of the image to the whole image, bilinear.

    Args:
        scale: Range of the box's area, as a fraction of the image.
        ratio: Range of the box's width / height, relative to the image's.
        p, same_on_batch, keepdim: See `PixelAugmentation2D`.

    Raises:
        ValueError: A setting is invalid.
    """

    def __init__(
        self,
        scale: Sequence[float] = (0.35, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self.scale, self.ratio = bounds("scale", scale, 1), bounds("ratio", ratio)

    def slots(self, keys: np.ndarray, aspect: float) -> Slots:
        """See `PixelAugmentation2D`."""
        slots = empty_slots(len(keys), 1)
        slots.kinds[:] = WARP
        matrices = crop_matrices(boxes(uniforms(keys, _BOX, 4), self.scale, self.ratio))
        slots.numbers[:, 0, :9] = matrices.reshape(-1, 9)
        slots.numbers[:, 0, FILL] = NO_FILL
        return slots

    def settings(self) -> dict[str, Any]:
        """See `PixelAugmentation2D`."""
        return {"scale": self.scale, "ratio": self.ratio, "p": self.p}
