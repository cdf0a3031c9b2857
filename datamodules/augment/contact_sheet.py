"""Contact sheets: images before and after a pipeline, each of its entries, and each operation at several levels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import nn

from datamodules.augment.pipeline import Augment
from datamodules.augment.randaugment import RandAugment
from litesort.keyed_random import splitmix64

_LABEL = 14  # px, height of the line of labels


def example_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Draw test images, (count, size, size, 3) uint8: soft light, sharp shapes, noise, low contrast."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        light = Image.fromarray(random.integers(40, 200, (4, 4, 3), dtype=np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        brush = ImageDraw.Draw(light)
        for _ in range(6):
            corner = random.uniform(0, 0.75, 2) * size
            box = [*corner, *(corner + random.uniform(0.1, 0.5, 2) * size)]
            colour = tuple(random.integers(20, 236, 3).tolist())
            (brush.ellipse if random.random() < 0.5 else brush.rectangle)(
                box, fill=colour, outline=(30, 30, 30), width=max(1, size // 60)
            )
        soft = np.asarray(light.filter(ImageFilter.GaussianBlur(size / 300)), dtype=np.float64)
        images.append((soft + random.normal(0, 4, soft.shape)).clip(8, 245).astype(np.uint8))
    return np.stack(images)


def contact_sheet(images: np.ndarray, columns: Mapping[str, np.ndarray]) -> Image.Image:
    """Lay out images (N, S, S, 3) uint8 in rows: first the original, then its image in each of `columns`."""
    size = images.shape[1]
    body = np.concatenate([np.concatenate(list(column)) for column in (images, *columns.values())], axis=1)
    page = Image.new("RGB", (body.shape[1], body.shape[0] + _LABEL), "white")
    page.paste(Image.fromarray(body), (0, _LABEL))
    brush = ImageDraw.Draw(page)
    for column, text in enumerate(["image", *columns]):
        brush.text((column * size + 2, 1), text, fill="black")
    return page


def augmented(augment: Augment, images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Augment images (N, S, S, 3) uint8, with mixup and cutmix; returns (N, S, S, 3) uint8."""
    batch, size = torch.from_numpy(images).permute(0, 3, 1, 2), images.shape[1]
    draws = augment.draw(splitmix64(np.arange(len(images), dtype=np.uint64) + np.uint64(1000 * seed)), size)
    changed, _ = augment.mix(augment(batch, draws), torch.zeros(len(images), dtype=torch.int64), 1, draws)
    return changed.mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def contact_sheets(augment: Augment, images: np.ndarray, draws: int = 8, step: float = 5.0) -> dict[str, Image.Image]:
    """Build the contact sheets of a pipeline.

    Args:
        augment: The pipeline.
        images: (N, S, S, 3) uint8.
        draws: Number of columns with augmented images, each with other random numbers.
        step: Difference of levels between the columns of an operation.

    Returns:
        Name -> sheet: "pipeline", then each entry alone with a probability of 1. An entry is followed by one sheet for
        each of Pillow's operations in its `ops`.
    """

    def sheet_of(pipeline: Augment) -> Image.Image:
        columns = {f"draw {number}": augmented(pipeline, images, number) for number in range(draws)}
        return contact_sheet(images, columns)

    sheets = {"pipeline": sheet_of(augment)}
    module: Any
    for name, module in augment.transforms.items():
        probability = getattr(module, "p", None)
        if probability is not None:
            module.p = 1.0
        sheets[name] = sheet_of(Augment({name: module}))
        if probability is not None:
            module.p = probability
        if isinstance(module, RandAugment):
            sheets |= {f"{name}-{op}": sheet for op, sheet in _operation_sheets(module, images, step).items()}
    return sheets


def _operation_sheets(module: RandAugment, images: np.ndarray, step: float) -> dict[str, Image.Image]:
    """One sheet for each of Pillow's operations, one column for each level. All columns have the same sign."""
    levels = np.arange(0, module.num_levels - 1 + 1e-9, step).tolist()
    names = [op for op in module.ops if isinstance(op, str)]
    sheets = {}
    for name in dict.fromkeys(names):
        columns: dict[str, np.ndarray] = {}
        for level in levels:
            settings = module.settings() | {
                "ops": [name],
                "num_ops": 1,
                "magnitude": level,
                "magnitude_std": 0.0,
                "p": 1.0,
            }
            transforms: dict[str, nn.Module] = {"op": RandAugment(**settings)}
            columns[f"{name} {level:g}"] = augmented(Augment(transforms), images)
            if name in ("Identity", "AutoContrast", "Equalize"):
                break  # these are the same at each level
        sheets[name] = contact_sheet(images, columns)
    return sheets


def save_sheets(sheets: Mapping[str, Image.Image], folder: Path) -> list[Path]:
    """Write sheets as PNG files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in sheets]
    for path, sheet in zip(paths, sheets.values(), strict=True):
        sheet.save(path)
    return paths
