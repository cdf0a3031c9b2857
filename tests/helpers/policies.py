"""Pipelines of litesort's augmentations for tests, built from flat settings."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from datamodules.augment import (
    Augment,
    Mixing,
    RandAugment,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
)
from datamodules.augment.ops import OPERATIONS
from datamodules.augment.pipeline import entry_keys


def policy(
    ops: Sequence[str | nn.Module] = tuple(OPERATIONS),
    num_ops: int = 2,
    magnitude: float = 14,
    magnitude_std: float = 0.0,
    *,
    crop_p: float = 0.0,
    crop_scale: Sequence[float] = (0.35, 1.0),
    hflip: float = 0.0,
    vflip: float = 0.0,
    erase_p: float = 0.0,
    erase_scale: Sequence[float] = (0.02, 0.2),
    erase_ratio: Sequence[float] = (0.3, 3.3),
    fill: int = 128,
    noise: bool = False,
    mixing: Mixing | None = None,
    **ranges: float,
) -> Augment:
    """Build a pipeline: crop, operations, flips, erased box, in this order."""
    transforms = {
        "crop": RandomResizedCrop(crop_scale, p=crop_p),
        "ops": RandAugment(num_ops, magnitude, ops, magnitude_std, fill=fill, **ranges),
        "flip": RandomHorizontalFlip(p=hflip),
        "vflip": RandomVerticalFlip(p=vflip),
        "erase": RandomErasing(erase_scale, erase_ratio, "noise" if noise else fill, p=erase_p),
    }
    return Augment(transforms, mixing)


def drawn_operations(augment: Augment, keys: np.ndarray) -> list[list[tuple[str, float]]]:
    """Names and amounts of the operations that `policy` draws for each sample."""
    ops = augment.transforms["ops"]
    choices, strengths = ops.choose(entry_keys(keys, "ops"))
    return [
        [
            (ops.ops[code], OPERATIONS[ops.ops[code]].amount(np.array([strength]), ops.ranges).item())
            for code, strength in zip(*row, strict=True)
        ]
        for row in zip(choices.tolist(), strengths.tolist(), strict=True)
    ]
