"""RandomErasing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datamodules.augment.geometry import box_mask
from datamodules.augment.pixel_augmentation import Params, PixelAugmentation2D, bounds, within
from datamodules.augment.slots import ERASE, NOISE, Slots, empty_slots
from litesort.keyed_random import boxes, uniforms

_BOX = 0  # stream of random numbers


class RandomErasing(PixelAugmentation2D):
    """Random erasing (Zhong et al., 2020), also called cutout: fill a random box of the image.

    Args:
        scale: Range of the box's area, as a fraction of the image.
        ratio: Range of the box's width / height, relative to the image's.
        fill: Content of the box: a grey from 0 to 255, or "noise".
        p, same_on_batch, keepdim: See `PixelAugmentation2D`.

    Raises:
        ValueError: A setting is invalid.
    """

    def __init__(
        self,
        scale: Sequence[float] = (0.02, 0.2),
        ratio: Sequence[float] = (0.3, 3.3),
        fill: int | str = 128,
        p: float = 0.5,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self.scale, self.ratio = bounds("scale", scale, 1), bounds("ratio", ratio)
        if isinstance(fill, str) and fill != "noise":
            raise ValueError(f"fill={fill} is invalid: expected a number from 0 to 255, or noise")
        self.fill = fill if isinstance(fill, str) else within("fill", fill, 0, 255)

    def slots(self, keys: np.ndarray, aspect: float) -> Slots:
        """See `PixelAugmentation2D`."""
        slots, drawn = empty_slots(len(keys), 1), uniforms(keys, _BOX, 5)
        slots.kinds[:] = ERASE
        slots.numbers[:, 0, :4] = boxes(drawn[:, :4], self.scale, self.ratio)
        slots.numbers[:, 0, 4] = np.floor(drawn[:, 4] * 2**24)
        slots.numbers[:, 0, 5] = NOISE if isinstance(self.fill, str) else self.fill
        return slots

    def apply_transform_mask(
        self, input: torch.Tensor, params: Params, flags: dict[str, Any], transform: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Set the box of masks (B, C, H, W) to 0."""
        box = box_mask(params["numbers"][:, 0, :4].to(input.device, torch.float32), *input.shape[-2:])
        return input.masked_fill(box[:, None], 0)

    def settings(self) -> dict[str, Any]:
        """See `PixelAugmentation2D`."""
        return {"scale": self.scale, "ratio": self.ratio, "fill": self.fill, "p": self.p}
