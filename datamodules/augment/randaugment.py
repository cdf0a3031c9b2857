"""RandAugment and TrivialAugment as kornia augmentations, with one draw a sample."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from datamodules.augment.ops import OPERATIONS, Ranges
from datamodules.augment.pixel_augmentation import PixelAugmentation2D, within
from datamodules.augment.slots import FILL, MODULE, WARP, Slots, empty_slots
from litesort.keyed_random import uniforms

_CHOICES, _LEVELS = range(2)  # streams of random numbers


class RandAugment(PixelAugmentation2D):
    """RandAugment (Cubuk et al., 2020): `num_ops` operations a sample, drawn with replacement, at one level.

    kornia's class of this name draws once for the batch. Operations on pixel values are bit-exact with Pillow's. A warp
    differs by at most one level, since Pillow truncates interpolated values. Neighbouring geometric operations of a
    sample are merged into one warp. So pixels that one operation moves out of the image can return with the next one,
    where Pillow fills them. See `PixelAugmentation2D` for images, boxes and masks.

    Args:
        num_ops: Operations a sample, in the drawn order.
        magnitude: Level of all operations, 0 to num_levels - 1.
        ops: Operations to draw from: names from `OPERATIONS`, or kornia augmentations that keep the size, with p=1.
        magnitude_std: Standard deviation of normal noise on the level. inf draws the level uniformly from 0 to
            magnitude.
        num_levels: Number of levels.
        rotate: Degrees at the highest level. The sign is random, also of shear, translate and enhance.
        shear: Tangent at the highest level.
        translate: Fraction of the side at the highest level.
        enhance: Factors of Color, Contrast, Brightness and Sharpness are 1 ± this at the highest level.
        solarize: Threshold at the highest level, 256 at level 0.
        posterize: Bits at the highest level, 8 at level 0.
        fill: Grey, 0 to 255, outside of moved images.
        p, same_on_batch, keepdim: See `PixelAugmentation2D`.

    Raises:
        ValueError: A setting is invalid.
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: float = 14,
        ops: Sequence[str | nn.Module] = tuple(OPERATIONS),
        magnitude_std: float = 0.0,
        num_levels: int = 31,
        rotate: float = 30.0,
        shear: float = 0.3,
        translate: float = 150 / 331,
        enhance: float = 0.9,
        solarize: float = 0.0,
        posterize: float = 4,
        fill: int = 128,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self.num_levels = int(within("num_levels", num_levels, 2, 1000))
        self.magnitude = within("magnitude", magnitude, 0, num_levels - 1)
        self.magnitude_std = within("magnitude_std", magnitude_std, 0, float("inf"))
        self.ranges = Ranges(
            within("rotate", rotate, 0, 360),
            within("shear", shear, 0, 10),
            within("translate", translate, 0, 1),
            within("enhance", enhance, 0, 10),
            within("solarize", solarize, 0, 256),
            within("posterize", posterize, 0, 8),
        )
        self.fill = int(within("fill", fill, 0, 255))
        self.ops, self.num_ops = list(ops), num_ops
        for op in self.ops:
            if not hasattr(op, "forward_parameters") and op not in OPERATIONS:
                name = op if isinstance(op, str) else type(op).__name__
                raise ValueError(
                    f"ops contains {name}: expected kornia augmentations, or names of {', '.join(OPERATIONS)}"
                )
        if num_ops < 0 or (num_ops > 0 and not self.ops):
            raise ValueError(f"num_ops={num_ops} is invalid: expected an integer of at least 0, and 0 if ops is empty")
        self._cached: dict[float, Slots] = {}
        self._modules_of_ops = nn.ModuleList(op for op in self.ops if isinstance(op, nn.Module))

    @property
    def chosen_modules(self) -> Sequence[nn.Module]:
        """The kornia augmentations in `ops`."""
        return list(self._modules_of_ops)

    def choose(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw operations: positions in `ops` (B, num_ops) int, and signed strengths (B, num_ops) in [-1, 1]."""
        if not self.num_ops:
            return np.zeros((len(keys), 0), dtype=int), np.zeros((len(keys), 0))
        drawn = uniforms(keys, _CHOICES, 2 * self.num_ops)
        choices = (drawn[:, : self.num_ops] * len(self.ops)).astype(int)
        signs = np.where(drawn[:, self.num_ops :] < 0.5, -1.0, 1.0)
        return choices, signs * self._levels(keys) / (self.num_levels - 1)

    def slots(self, keys: np.ndarray, aspect: float) -> Slots:
        """See `PixelAugmentation2D`."""
        choices, strengths = self.choose(keys)
        if self.magnitude_std > 0:
            return self._write(choices, strengths, aspect)
        both = self._at_both_signs(aspect)  # the level is constant, so only two strengths occur
        places = 2 * choices + (strengths > 0)
        return Slots(both.kinds[places, 0], both.numbers[places, 0])

    def _at_both_signs(self, aspect: float) -> Slots:
        """Slots of each entry of `ops` at the level, with a negative and a positive sign: (2 * ops, 1)."""
        if aspect not in self._cached:
            strengths = np.tile([-1.0, 1.0], len(self.ops)) * (self.magnitude / (self.num_levels - 1))
            self._cached[aspect] = self._write(np.arange(len(self.ops)).repeat(2)[:, None], strengths[:, None], aspect)
        return self._cached[aspect]

    def _write(self, choices: np.ndarray, strengths: np.ndarray, aspect: float) -> Slots:
        """Write the slots of drawn operations: positions in `ops` (B, L), and signed strengths (B, L)."""
        slots = empty_slots(*choices.shape)
        modules = 0
        for position, op in enumerate(self.ops):
            here = choices == position
            if isinstance(op, nn.Module):
                slots.kinds[here] = MODULE
                slots.numbers[here, 0] = modules
                modules += 1
                continue
            operation = OPERATIONS[op]
            values = np.zeros((here.sum(), slots.numbers.shape[2]))
            operation.write(values, operation.amount(strengths[here], self.ranges), aspect)
            if operation.kind == WARP:
                values[:, FILL] = self.fill
            slots.kinds[here], slots.numbers[here] = operation.kind, values
        return slots

    def _levels(self, keys: np.ndarray) -> np.ndarray:
        """Draw the level of each operation, (B, num_ops)."""
        if self.magnitude_std == 0:
            return np.full((len(keys), self.num_ops), float(self.magnitude))
        drawn = uniforms(keys, _LEVELS, 2 * self.num_ops).reshape(len(keys), self.num_ops, 2)
        if np.isinf(self.magnitude_std):
            return drawn[..., 0] * self.magnitude
        normal = np.sqrt(-2 * np.log1p(-drawn[..., 0])) * np.cos(2 * np.pi * drawn[..., 1])
        return np.clip(self.magnitude + self.magnitude_std * normal, 0, self.num_levels - 1)

    def settings(self) -> dict[str, Any]:
        """See `PixelAugmentation2D`."""
        names = ("num_ops", "magnitude", "ops", "magnitude_std", "num_levels")
        return {name: getattr(self, name) for name in names} | self.ranges._asdict() | {"fill": self.fill, "p": self.p}


class TrivialAugment(RandAugment):
    """TrivialAugment (Müller and Hutter, 2021): one operation a sample, at a level drawn uniformly from a wide range.

    Args: See `RandAugment`. The defaults are those of the paper.
    """

    def __init__(
        self,
        num_ops: int = 1,
        magnitude: float = 30,
        ops: Sequence[str | nn.Module] = tuple(OPERATIONS),
        magnitude_std: float = float("inf"),
        num_levels: int = 31,
        rotate: float = 135.0,
        shear: float = 0.99,
        translate: float = 32 / 224,
        enhance: float = 0.99,
        solarize: float = 0.0,
        posterize: float = 2,
        fill: int = 128,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(
            num_ops, magnitude, ops, magnitude_std, num_levels, rotate, shear, translate, enhance, solarize, posterize,
            fill, p, same_on_batch, keepdim,
        )  # fmt: skip
