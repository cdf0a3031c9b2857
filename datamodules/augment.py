"""Augmentation of whole batches on the device, drawn on the host."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from datamodules.augment_draws import Draws
from datamodules.mixing import Mixing

OPERATIONS = (
    "Identity", "AutoContrast", "Equalize", "Rotate", "Solarize", "Color", "Posterize",
    "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
)  # fmt: skip


class Augment(nn.Module):
    """Draw `num_ops` operations a sample, crop, flip and erase; mixing is asked for separately."""

    def __init__(
        self,
        ops: Sequence[str] = OPERATIONS,
        num_ops: int = 2,
        magnitude: float = 14,
        magnitude_std: float = 0.0,
        num_levels: int = 31,
        ranges: Mapping[str, Sequence[float]] | None = None,
        fill: int = 128,
        crop_p: float = 0.0,
        crop_scale: Sequence[float] = (0.35, 1.0),
        crop_ratio: Sequence[float] = (0.75, 1.3333),
        hflip: float = 0.5,
        vflip: float = 0.0,
        erase_p: float = 0.0,
        erase_scale: Sequence[float] = (0.02, 0.2),
        erase_ratio: Sequence[float] = (0.3, 3.3),
        erase_with: str = "fill",
        mixing: Mixing | None = None,
    ) -> None:
        super().__init__()

    def draw(self, keys: np.ndarray) -> Draws:
        """Draw on the host: keys (B,) uint64, one a sample -> Draws (a NamedTuple of small CPU tensors and Python ints).

        A NamedTuple, so Lightning's transfer and torch's `pin_memory` take it as it is.
        """
        raise NotImplementedError

    def forward(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """images (B, 3, S, S) uint8, best a channels_last view of NHWC -> (B, 3, S, S) float32 in [0, 1], channels_last."""
        raise NotImplementedError

    def mix(
        self, images: torch.Tensor, targets: torch.Tensor, num_classes: int, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """images (B, 3, S, S) float, targets (B,) int64 -> images, targets (B, C) float32; both unchanged if mixing is off."""
        raise NotImplementedError
