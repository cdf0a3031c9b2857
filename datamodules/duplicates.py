"""Photos that show the same: copies, also re-encoded, brightened or cropped, and second shots from the same place.

A photo is brought to 64 x 64 px, whatever its shape; what varies slowly (light, the shadow of a hand, the colour of the
table) is taken out and the contrast is made even; what is left is described by 16 x 16 numbers of length 1, so that the
likeness of two photos is a scalar product: one matrix product finds all pairs, with no bucket to miss one. Beside the
whole photo five windows of it are described, so that a copy whose edges were cut off still meets its likeness.

Photos of one plain background have the same light and shadow. Compared by brightness alone, as a mean or difference
hash does it, they are all alike, and groups grow through the whole set.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from datamodules import DataError
from datamodules.cache import open_pixels
from datamodules.groups import components
from datamodules.sources.base import Source

SIDE = 64  # px of the photo that is described
GRID = 16  # numbers a side of the description
RADIUS = 6  # px: what varies more slowly than this is light, not content
FLOOR = 4.0  # levels of contrast that are taken for noise
LIKE = 0.70  # likeness from which two photos show the same; how it was chosen: docs/data.md
COLOUR = 40.0  # levels that the colours of a pair may differ by, light and contrast left aside
WINDOW = 0.9  # share of a side that a window keeps
BATCH = 512  # photos that are compared with all others at once


def duplicate_groups(source: Source, cache_dir: str | Path | None, budget_gb: float, progress: bool) -> np.ndarray:
    """Number the photos of a source, (N,) int64, equal where they show the same, directly or through a chain.

    It depends on the photos alone, not on the size or the policy that a network is fed with: runs that are compared are
    split alike. Broken photos are alone.
    """
    pixels = open_pixels(source, SIDE, "squash", cache_dir=cache_dir, budget_gb=budget_gb, progress=progress)
    if pixels is None:
        raise DataError("data.group_by=duplicates needs a cache of small photos: raise data.cache_budget_gb")
    first, second, _ = alike(pixels.array, skip=pixels.broken)
    keys: list[list[tuple[object, ...]]] = [[] for _ in range(len(pixels.array))]
    for number, pair in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        for row in pair:
            keys[row].append((number,))
    return components(keys)


def alike(
    pixels: np.ndarray, likeness: float = LIKE, skip: dict[int, str] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pairs of photos that show the same.

    pixels: (N, 64, 64, 3) uint8. skip: rows that are no photos.
    Returns rows (P,) int64 of the one, of the other (larger), and their likeness (P,) float32, at most 1.
    """
    views = [torch.cat(parts) for parts in zip(*map(_views, _batches(pixels)), strict=True)]
    whole, tint = views[0], torch.cat([_tint(batch) for batch in _batches(pixels)])
    found: list[torch.Tensor] = []
    for start in range(0, len(whole), BATCH):
        rows = slice(start, start + BATCH)
        best = whole[rows] @ whole.T
        for window in views[1:]:  # either may be the one that was cut
            torch.maximum(best, window[rows] @ whole.T, out=best)
            torch.maximum(best, whole[rows] @ window.T, out=best)
        best[torch.cdist(tint[rows], tint, p=1) > COLOUR * tint.shape[1]] = -1
        one, other = torch.nonzero(best.triu(start + 1) > likeness, as_tuple=True)
        found.append(torch.stack([one + start, other, best[one, other]], 1))
    table = torch.cat(found).double().numpy()
    table = np.concatenate([table, _equal(pixels)])
    table = table[np.lexsort((-table[:, 2], table[:, 1], table[:, 0]))]
    table = table[np.sort(np.unique(table[:, :2], axis=0, return_index=True)[1])]
    table = table[~np.isin(table[:, :2], list(skip or {})).any(1)]
    return table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2].astype(np.float32)


def _equal(pixels: np.ndarray) -> np.ndarray:
    """Pairs (P, 3) float64 of rows with equal pixels, each with the first of its kind: flat photos have no content."""
    first: dict[bytes, int] = {}
    pairs = [(first.setdefault(photo.tobytes(), row), row, 1.0) for row, photo in enumerate(pixels)]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.float64).reshape(-1, 3)


def _batches(pixels: np.ndarray) -> Iterator[torch.Tensor]:
    """Photos as (B, 3, 64, 64) float32 in [0, 255]."""
    for start in range(0, len(pixels), BATCH):
        yield torch.from_numpy(np.array(pixels[start : start + BATCH])).permute(0, 3, 1, 2).float()


def _views(photos: torch.Tensor) -> list[torch.Tensor]:
    """Descriptions (B, 256) float32 of the whole photos and of their five windows."""
    cut = round(SIDE * (1 - WINDOW))
    keep = SIDE - cut
    places = [(0, 0), (0, cut), (cut, 0), (cut, cut), (cut // 2, cut // 2)]
    windows = [photos[:, :, top : top + keep, left : left + keep] for top, left in places]
    return [_describe(photos), *(_describe(F.interpolate(window, SIDE, mode="bilinear")) for window in windows)]


def _describe(photos: torch.Tensor) -> torch.Tensor:
    """(B, 3, 64, 64) float32 -> (B, 256) float32 of length 1, or 0 where there is no content."""
    grey = (photos * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    detail = grey - _blur(grey)
    even = detail / (_blur(detail.square()).sqrt() + FLOOR)
    numbers = F.avg_pool2d(even, SIDE // GRID).flatten(1)
    numbers = numbers - numbers.mean(1, keepdim=True)
    return numbers / (numbers.norm(dim=1, keepdim=True) + 1e-3)


def _blur(photos: torch.Tensor) -> torch.Tensor:
    """Twice a box, which is nearly a bell."""
    for _ in range(2):
        photos = F.avg_pool2d(F.pad(photos, [RADIUS] * 4, mode="reflect"), 2 * RADIUS + 1, 1)
    return photos


def _tint(photos: torch.Tensor) -> torch.Tensor:
    """Colour without light, (B, 8) float32: red-green and yellow-blue in the four quarters, in levels."""
    red, green, blue = F.adaptive_avg_pool2d(photos, 2).flatten(2).unbind(1)
    return torch.cat([red - green, (red + green) / 2 - blue], 1)
