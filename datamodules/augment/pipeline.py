"""Augment: augmentation of whole batches on the device, with parameters drawn on the host.

`python -m datamodules.augment` writes contact sheets.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from datamodules.augment.colour import apply_color, apply_sharpness
from datamodules.augment.draw_plan import IDENTITY_STEP, NONE, WARP, Draws, Pass, Slots, draw_plan
from datamodules.augment.geometry import (
    apply_erase,
    apply_flip,
    apply_warp,
    crop_matrices,
    grid_lines,
    operation_matrices,
)
from datamodules.augment.mix import Mixing
from datamodules.augment.ops import CODES, FACTORS, GEOMETRIES, KINDS, OPERATIONS, operation_codes, table_steps
from datamodules.augment.pixel_rows import PixelRows, fresh, rows_at_once
from datamodules.augment.tables import build_tables, histograms, look_up, mean_luma, table_places
from litesort.errors import DataError
from litesort.keyed_random import boxes, uniforms

_CHOICES, _SIGNS, _LEVELS, _CROP, _FLIPS, _ERASE = range(6)


class Augment(nn.Module):
    """RandAugment's 14 operations, random resized crop, flips and erasing, on uint8 pixels, with the arithmetic of PIL.

    Order: crop, then `num_ops` operations drawn with replacement from `ops`, then flips, then erasing. Consecutive
    geometric operations (including the crop) are one warp: pixels that one operation moves out of the image can return
    by the next, where PIL has filled them. Everything else equals one operation after the other, with uint8 pixels
    between them. All parameters are a function of the sample's key.

    Args:
        ops: Names from `OPERATIONS`.
        num_ops: Operations an image; 0 for none.
        magnitude: Level of all operations, 0 to num_levels - 1 (RandAugment; Cubuk et al., 2020).
        magnitude_std: Standard deviation of normal noise on the level. inf draws the level uniformly from 0 to
            magnitude (TrivialAugment; Müller and Hutter, 2021).
        num_levels: Number of levels.
        rotate: Degrees at the highest level. Signs are random, here and below.
        shear: Tangent at the highest level.
        translate: Fraction of the side at the highest level.
        enhance: Factors of Color, Contrast, Brightness and Sharpness are 1 ± this at the highest level.
        solarize: Threshold at the highest level, 256 at level 0.
        posterize: Bits at the highest level, 8 at level 0.
        fill: Grey, 0 to 255, outside of moved images and in erased boxes.
        crop_p, hflip, vflip, erase_p: Probabilities.
        crop_scale, erase_scale: Range of the area, as a fraction of the image.
        crop_ratio, erase_ratio: Range of width / height.
        fill_mode: Content of erased boxes, "fill" or "noise".
        mixing: Mixup and cutmix, or None.

    Raises:
        DataError: A setting is invalid.
    """

    def __init__(
        self,
        ops: Sequence[str] = tuple(OPERATIONS),
        num_ops: int = 2,
        magnitude: float = 14,
        magnitude_std: float = 0.0,
        num_levels: int = 31,
        rotate: float = 30.0,
        shear: float = 0.3,
        translate: float = 150 / 331,
        enhance: float = 0.9,
        solarize: float = 0.0,
        posterize: int = 4,
        fill: int = 128,
        crop_p: float = 0.0,
        crop_scale: Sequence[float] = (0.35, 1.0),
        crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        vflip: float = 0.0,
        erase_p: float = 0.0,
        erase_scale: Sequence[float] = (0.02, 0.2),
        erase_ratio: Sequence[float] = (0.3, 3.3),
        fill_mode: str = "fill",
        mixing: Mixing | None = None,
    ) -> None:
        super().__init__()
        self.codes, self.num_ops = operation_codes(ops, num_ops), num_ops
        self.num_levels = int(_within("num_levels", num_levels, 2, 1000))
        self.magnitude = _within("magnitude", magnitude, 0, num_levels - 1)
        self.magnitude_std = _within("magnitude_std", magnitude_std, 0, float("inf"))
        self.rotate, self.shear = _within("rotate", rotate, 0, 360), _within("shear", shear, 0, 10)
        self.translate, self.enhance = _within("translate", translate, 0, 1), _within("enhance", enhance, 0, 10)
        self.solarize, self.posterize = _within("solarize", solarize, 0, 256), _within("posterize", posterize, 0, 8)
        self.fill = int(_within("fill", fill, 0, 255))
        self.crop_p, self.erase_p = _within("crop_p", crop_p, 0, 1), _within("erase_p", erase_p, 0, 1)
        self.hflip, self.vflip = _within("hflip", hflip, 0, 1), _within("vflip", vflip, 0, 1)
        self.crop_scale, self.crop_ratio = _bounds("crop_scale", crop_scale, 1), _bounds("crop_ratio", crop_ratio)
        self.erase_scale, self.erase_ratio = _bounds("erase_scale", erase_scale, 1), _bounds("erase_ratio", erase_ratio)
        self.noise, self.mixing = _choice("fill_mode", fill_mode, ("fill", "noise")) == "noise", mixing

    def draw(self, keys: np.ndarray) -> Draws:
        """Draw parameters on the host for keys (B,) uint64, one a sample.

        The result consists of small CPU tensors and Python values. It is a NamedTuple, so Lightning's transfer and
        torch's `pin_memory` handle it.
        """
        codes, amounts = self._draw_operations(keys)
        kinds = np.concatenate([np.zeros((len(keys), 1), dtype=int), KINDS[codes]], axis=1)
        matrices = np.tile(np.eye(3), (*kinds.shape, 1, 1))
        if (KINDS[codes] == WARP).any():
            which = np.select([codes == CODES[name] for name in GEOMETRIES], list(range(5)), -1)
            matrices[:, 1:] = operation_matrices(which.ravel(), amounts.ravel()).reshape(*codes.shape, 3, 3)
        crop = uniforms(keys, _CROP, 5)
        kinds[:, 0] = np.where(crop[:, 0] < self.crop_p, WARP, NONE)
        matrices[:, 0] = crop_matrices(boxes(crop[:, 1:], self.crop_scale, self.crop_ratio))
        erase = uniforms(keys, _ERASE, 6)
        erased = erase[:, :1] < self.erase_p
        box = boxes(erase[:, 1:5], self.erase_scale, self.erase_ratio) * erased
        slots = Slots(
            kinds=kinds,
            steps=_pad(table_steps(codes, amounts), IDENTITY_STEP),
            factors=_pad(amounts, 1.0),
            matrices=matrices,
            breaks=_pad(codes == CODES["Contrast"], False),
            flips=uniforms(keys, _FLIPS, 2) < (self.hflip, self.vflip),
            erase=np.concatenate([box, np.floor(erase[:, 5:] * 2**24)], axis=1),
        )
        return draw_plan(slots, self.mixing.draw(keys) if self.mixing is not None and self.mixing.on else None)

    def _draw_operations(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return codes (B, num_ops) int and amounts (B, num_ops) float64: degrees, fraction, factor, level, bits."""
        shape = (len(keys), self.num_ops)
        if not self.num_ops:
            return np.zeros(shape, dtype=int), np.zeros(shape)
        choices = (uniforms(keys, _CHOICES, self.num_ops) * len(self.codes)).astype(int)
        codes = np.array(self.codes)[choices]
        signs = np.where(uniforms(keys, _SIGNS, self.num_ops) < 0.5, -1.0, 1.0)
        strengths = self._levels(keys) / (self.num_levels - 1)
        return codes, self._amounts(codes, signs, strengths)

    def _amounts(self, codes: np.ndarray, signs: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        highest = np.zeros(len(OPERATIONS))
        for names, value in (
            (("Rotate",), self.rotate),
            (("ShearX", "ShearY"), self.shear),
            (("TranslateX", "TranslateY"), self.translate),
            (FACTORS, self.enhance),
        ):
            highest[[CODES[name] for name in names]] = value
        amounts = signs * strengths * highest[codes]
        amounts += np.isin(codes, [CODES[name] for name in FACTORS])
        thresholds = np.ceil(256 + strengths * (self.solarize - 256))
        bits = np.round(8 + strengths * (self.posterize - 8))
        amounts = np.where(codes == CODES["Solarize"], thresholds, amounts)
        return np.where(codes == CODES["Posterize"], bits, amounts)

    def _levels(self, keys: np.ndarray) -> np.ndarray:
        drawn = uniforms(keys, _LEVELS, 2 * self.num_ops).reshape(len(keys), self.num_ops, 2)
        if np.isinf(self.magnitude_std):
            return drawn[..., 0] * self.magnitude
        normal = np.sqrt(-2 * np.log1p(-drawn[..., 0])) * np.cos(2 * np.pi * drawn[..., 1])
        return np.clip(self.magnitude + self.magnitude_std * normal, 0, self.num_levels - 1)

    @torch.no_grad()
    def forward(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Augment images (B, 3, S, S) uint8, ideally a channels_last view of NHWC.

        Returns:
            (B, 3, S, S) float32 in [0, 1], channels_last.

        Raises:
            DataError: The images are not uint8 or not square.
        """
        size, width = images.shape[-2:]
        if images.dtype != torch.uint8 or size != width:
            raise DataError(f"augment: images are {images.dtype} of {size} x {width} px: expected square uint8 images")
        pixels = images.permute(0, 2, 3, 1).contiguous()
        # bfloat16 coordinates shift pixels
        with torch.autocast(images.device.type, enabled=False):
            if draws.passes:
                pixels = fresh(pixels.shape, torch.uint8, pixels.device).copy_(pixels)
            for group in draws.passes:
                rows = PixelRows(pixels, draws.rows[group.row :][: group.rows])
                self._run(group, rows, draws.numbers[group.number :])
            out = fresh(pixels.shape, torch.float32, pixels.device)
            at_once = rows_at_once(pixels)
            for some, part in zip(out.split(at_once), pixels.split(at_once), strict=True):
                some.copy_(part).div_(255)
        return out.permute(0, 3, 1, 2)

    def mix(
        self, images: torch.Tensor, targets: torch.Tensor, num_classes: int, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix images (B, 3, S, S) float and targets (B,) int64 within the batch.

        Returns:
            Images, and targets (B, num_classes) float32; both unchanged if mixing is off.
        """
        if self.mixing is None or draws.mix is None:
            return images, targets
        mixed: tuple[torch.Tensor, torch.Tensor] = self.mixing(images, targets, num_classes, draws.mix)
        return mixed

    def _run(self, group: Pass, rows: PixelRows, numbers: torch.Tensor) -> None:
        columns = {"tables": 5 * len(group.statistical), "warp": 6, "erase": 5, "color": 1, "sharpness": 1}.get(
            group.kind, 0
        )
        numbers = numbers[: columns * group.rows]
        if group.kind == "tables":
            steps = numbers.view(-1, group.rows, 5)
            places = table_places(rows.at_once, rows.size, numbers.device)
            means = rows.read(mean_luma, 0, group.contrast)
            counts = rows.read(partial(histograms, places=places), *group.counted)
            rows.change(partial(look_up, places=places), build_tables(steps, means, counts, group))
        elif group.kind == "warp":
            rows.change(partial(apply_warp, fill=self.fill), *grid_lines(numbers.view(-1, 2, 3), rows.size))
        elif group.kind == "color":
            rows.change(apply_color, numbers)
        elif group.kind == "sharpness":
            rows.change(apply_sharpness, numbers)
        elif group.kind == "erase":
            fill = None if self.noise else self.fill
            rows.change(partial(apply_erase, fill=fill), numbers.view(-1, 5))
        else:
            rows.change(partial(apply_flip, dim=2 if group.kind == "flip_width" else 1))


def _pad(values: np.ndarray, first: float | tuple[float, ...]) -> np.ndarray:
    """Prepend the slot of the crop, which has none of these values, to the slots of the operations."""
    head = np.broadcast_to(np.asarray(first, dtype=values.dtype), (len(values), 1, *values.shape[2:]))
    return np.concatenate([head, values], axis=1)


def _within(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise DataError(f"augment.{name}={value} is invalid: expected a number from {low:g} to {high:g}")
    return value


def _choice(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise DataError(f"augment.{name}={value} is invalid: expected {' or '.join(known)}")
    return value


def _bounds(name: str, values: Sequence[float], high: float = 100) -> tuple[float, float]:
    if len(values) != 2 or not 0 < values[0] <= values[1] <= high:
        raise DataError(
            f"augment.{name}={list(values)} is invalid: expected [low, high] with 0 < low <= high <= {high:g}"
        )
    return float(values[0]), float(values[1])
