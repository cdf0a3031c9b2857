"""Duplicates: copies of an image (also re-encoded, brightened or cropped), and repeated shots of one scene.

An image is resized to 64 x 64 px. Slow variation (light, shadows, background colour) is removed, and the contrast is
equalised. The result is reduced to 16 x 16 numbers, so that the similarity of two images is a scalar product, and one
matrix product finds all candidates. Five windows of each image are described too, so that cropped copies are found.
Candidates are compared again with 32 x 32 numbers, at several small shifts.

Mean and difference hashes are not used: they compare brightness only. Images of different objects on the same plain
background have similar hashes, since light and shadow are the same, and would form one large group.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from datamodules.cache import open_pixels
from datamodules.cache.config import CacheConfig
from datamodules.cache.store import Pixels
from datamodules.sources.base import Source
from datamodules.splits.groups import components
from litesort.errors import DataError

SIDE = 64  # px of the image that is described
COARSE, FINE = 16, 32  # numbers a side of the coarse and the fine description
RADIUS = 3  # of 32, of the blur: slower variation is treated as light, not as content
FLOOR = 4.0  # contrast in levels below which variation is treated as noise
COARSE_SIMILARITY = 0.6  # coarse similarity above which a pair is compared again
SIMILARITY = 0.75  # fine similarity above which two images are duplicates; measured in docs/lab/experiments.md
SHIFT = 2  # of 32: largest shift between two images
COARSE_COLOUR = 0.08  # largest colour difference in the coarse comparison, as a share of the light
COLOUR = 0.06  # largest colour difference in the fine comparison, where there is content
WINDOW = 0.9  # side of a window, as a share of the side of the image
BATCH = 512  # images that are compared with all others at once, and pairs that are compared at once
DESCRIBED = 8192  # pairs whose images are described at once; a description takes 36 kB


def duplicate_groups(source: Source, cache: CacheConfig, progress: bool = False) -> np.ndarray:
    """Number the images of a source, (N,) int64, equal for duplicates and chains of duplicates.

    The result depends on the images only, not on the size or policy of a run. So runs with different settings have the
    same split. A broken image is a separate group.

    Raises:
        DataError: The cache of small images exceeds its budget.
    """
    pixels = small_images(source, cache, progress)
    first, second, _ = similar_pairs(pixels.array, skip=pixels.broken)
    return duplicate_ids(len(pixels.array), zip(first.tolist(), second.tolist(), strict=True))


def duplicate_ids(count: int, pairs: Iterable[Sequence[int]]) -> np.ndarray:
    """Number `count` images, (N,) int64, equal for images that are connected by pairs of rows."""
    keys: list[list[tuple[object, ...]]] = [[] for _ in range(count)]
    for number, pair in enumerate(pairs):
        for row in pair:
            keys[row].append((number,))
    return components(keys)


def small_images(source: Source, cache: CacheConfig, progress: bool) -> Pixels:
    """Return all images of a source at 64 x 64 px, from the cache on disk.

    Raises:
        DataError: The cache exceeds its budget.
    """
    pixels = open_pixels(source, SIDE, "squash", replace(cache, cache="disk"), progress=progress)
    if pixels is None:
        raise DataError("finding duplicates needs a cache of small images: increase data.cache_budget_gb")
    return pixels


def similar_pairs(
    pixels: np.ndarray, similarity: float = SIMILARITY, skip: dict[int, str] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find pairs of duplicates.

    Args:
        pixels: (N, 64, 64, 3) uint8.
        similarity: Smallest similarity of a pair.
        skip: Rows of broken images.

    Returns:
        First rows (P,) int64, second rows (P,) int64 (larger), and similarities (P,) float32, at most 1.
    """
    first, second = candidates(pixels)
    found = compare(pixels, first, second)
    keep = found > similarity
    table = np.stack([first[keep], second[keep], found[keep]], 1).astype(np.float64)
    table = np.concatenate([_equal(pixels), table])
    table = table[np.unique(table[:, :2], axis=0, return_index=True)[1]]
    table = table[~np.isin(table[:, :2], list(skip or {})).any(1)]
    return table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2].astype(np.float32)


def candidates(pixels: np.ndarray, likely: float = COARSE_SIMILARITY) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (P,) int64 of pairs with a high coarse similarity. All pairs are compared, in blocks of the
    matrix.
    """
    views = [torch.cat(parts) for parts in zip(*map(_coarse_views, _batches(pixels)), strict=True)]
    whole, colours = views[0], torch.cat([_colours(batch) for batch in _batches(pixels)])
    found = [torch.empty(0, 2, dtype=torch.int64)]
    buffers = torch.empty(2, BATCH * len(whole))
    for start in range(0, len(whole), BATCH):
        rows, later = slice(start, start + BATCH), slice(start, None)
        shape = len(whole[rows]), len(whole[later])
        best, other = buffers[:, : math.prod(shape)].view(2, *shape)
        torch.mm(whole[rows], whole[later].T, out=best)
        for window in views[1:]:  # either image can be the cropped one
            torch.maximum(best, torch.mm(window[rows], whole[later].T, out=other), out=best)
            torch.maximum(best, torch.mm(whole[rows], window[later].T, out=other), out=best)
        best[torch.cdist(colours[rows], colours[later], p=1) > COARSE_COLOUR * colours.shape[1]] = 0
        found.append(torch.nonzero(best.triu(1) > likely) + start)
    pairs = torch.cat(found).numpy()
    return pairs[:, 0], pairs[:, 1]


class Description(NamedTuple):
    """Fine description of B images or windows.

    Attributes:
        content: (B, 1, 32, 32) float32.
        colours: (B, 512) float32.
    """

    content: torch.Tensor
    colours: torch.Tensor

    def of(self, rows: torch.Tensor) -> "Description":
        return Description(self.content[rows], self.colours[rows])


def compare(pixels: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fine similarity (P,) float32 of pairs of rows, the maximum over windows and shifts of up to 2 of 32."""
    found = [np.empty(0, np.float32)]
    for start in range(0, len(first), DESCRIBED):
        pairs = np.stack([rows[start : start + DESCRIBED] for rows in (first, second)])
        rows, places = np.unique(pairs, return_inverse=True)  # an image of several pairs is described once
        descriptions = _descriptions(pixels[rows])
        for place in torch.from_numpy(places.reshape(pairs.shape)).split(BATCH, dim=1):
            one, other = ([description.of(row) for description in descriptions] for row in place)
            comparisons = [
                (one[0], other[0]),
                *((one[0], cut) for cut in other[1:]),
                *((cut, other[0]) for cut in one[1:]),
            ]
            found.append(torch.stack([_similarity(*comparison) for comparison in comparisons]).amax(0).numpy())
    return np.concatenate(found)


def _descriptions(pixels: np.ndarray) -> list[Description]:
    """Descriptions of whole images and of their five windows, each of all images (N, 64, 64, 3) uint8."""
    parts = [
        [Description(_describe(part), _colours(part, COARSE)) for part in _windows(batch)] for batch in _batches(pixels)
    ]
    return [Description(*map(torch.cat, zip(*part, strict=True))) for part in zip(*parts, strict=True)]


def _similarity(one: Description, other: Description) -> torch.Tensor:
    """Similarity (B,) float32 of images or windows; 0 if the colours differ."""
    apart = _colour_difference(one.colours, other.colours, torch.maximum(one.content.abs(), other.content.abs()))
    found, same = torch.zeros(len(apart)), torch.nonzero(apart <= COLOUR)[:, 0]
    found[same] = _best_shift(one.content[same], other.content[same])
    return found


def _best_shift(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Largest correlation (B,) of maps (B, 1, 32, 32) over small shifts, each over the common part."""
    one, other, common = one[:, 0], other[:, 0], _common_part()
    back = common.flip(0)  # the part of the other map, which is shifted the other way
    count = common.sum(1)[:, None] * common.sum(1)
    sum_one, sum_other = common @ one @ common.T, back @ other @ back.T  # (B, 5, 5): an entry for each shift
    spread_one = common @ one.square() @ common.T - sum_one.square() / count
    spread_other = back @ other.square() @ back.T - sum_other.square() / count
    together = torch.empty_like(sum_one)
    for row, down in enumerate(range(-SHIFT, SHIFT + 1)):
        for column, right in enumerate(range(-SHIFT, SHIFT + 1)):
            a = one[:, max(0, down) : FINE + min(0, down), max(0, right) : FINE + min(0, right)]
            b = other[:, max(0, -down) : FINE + min(0, -down), max(0, -right) : FINE + min(0, -right)]
            together[:, row, column] = (a * b).sum((1, 2))
    together -= sum_one * sum_other / count
    norm = (spread_one.clamp_min(0) * spread_other.clamp_min(0)).sqrt()
    return (together / (norm + 1e-3)).amax((1, 2)).clamp_min(-1)


@cache
def _common_part() -> torch.Tensor:
    """Matrix (5, 32) of 0 and 1: the lines of a map that overlap with a map shifted by -2, -1, 0, 1, 2."""
    lines = torch.arange(FINE)
    return torch.stack([((lines >= shift) & (lines < FINE + shift)).float() for shift in range(-SHIFT, SHIFT + 1)])


def _equal(pixels: np.ndarray) -> np.ndarray:
    """Pairs (P, 3) float64 of rows with equal pixels, each with the first such row. Flat images have no other
    description.
    """
    first: dict[bytes, int] = {}
    pairs = [(first.setdefault(image.tobytes(), row), row, 1.0) for row, image in enumerate(pixels)]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.float64).reshape(-1, 3)


def _batches(pixels: np.ndarray) -> Iterator[torch.Tensor]:
    for start in range(0, len(pixels), BATCH):
        yield _to_float(pixels[start : start + BATCH])


def _to_float(pixels: np.ndarray) -> torch.Tensor:
    """(B, 64, 64, 3) uint8 -> (B, 3, 64, 64) float32 in [0, 255], one plane after the other."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float().contiguous()


def _coarse_views(images: torch.Tensor) -> list[torch.Tensor]:
    """(B, 256) float32 of whole images and their five windows, with mean 0 and length 1, or 0 without content."""
    views = [F.avg_pool2d(_describe(part), FINE // COARSE).flatten(1) for part in _windows(images)]
    views = [view - view.mean(1, keepdim=True) for view in views]
    return [view / (view.norm(dim=1, keepdim=True) + 1e-3) for view in views]


def _windows(images: torch.Tensor) -> list[torch.Tensor]:
    """Whole images (B, 3, 64, 64), and their four corners and centre, 58 px of 64."""
    cut = round(SIDE * (1 - WINDOW))
    keep = SIDE - cut
    places = [(0, 0), (0, cut), (cut, 0), (cut, cut), (cut // 2, cut // 2)]
    return [images, *(images[:, :, top : top + keep, left : left + keep] for top, left in places)]


def _describe(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, H) float32 -> (B, 1, 32, 32) float32: content without slow variation, 0 in flat regions."""
    shrink, blur = _shrink(images.shape[-1], FINE), _blur()
    grey = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    small = shrink @ grey @ shrink.T
    detail = small - blur @ small @ blur.T
    return (detail / ((blur @ detail.square() @ blur.T).clamp_min(0).sqrt() + FLOOR)).unsqueeze(1)


@cache
def _shrink(side: int, grid: int) -> torch.Tensor:
    """Matrix (grid, side) that averages a line of an image to `grid` numbers."""
    return F.adaptive_avg_pool1d(torch.eye(side).unsqueeze(0), grid)[0].T.contiguous()


@cache
def _blur() -> torch.Tensor:
    """Matrix (32, 32) that blurs a line with two box filters (approximately Gaussian) and reflected ends."""
    lines = torch.eye(FINE).unsqueeze(0)
    for _ in range(2):
        lines = F.avg_pool1d(F.pad(lines, [RADIUS, RADIUS], mode="reflect"), 2 * RADIUS + 1, 1)
    return lines[0].T.contiguous()


def _colours(images: torch.Tensor, grid: int = 2) -> torch.Tensor:
    """Colour without brightness, (B, 2 * grid * grid) float32: red-green and yellow-blue, as shares of the light."""
    shrink = _shrink(images.shape[-1], grid)
    red, green, blue = (shrink @ images @ shrink.T).flatten(2).unbind(1)
    light = red + green + blue + 30
    return torch.cat([(red - green) / light, ((red + green) / 2 - blue) / light], 1)


def _colour_difference(one: torch.Tensor, other: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """Mean difference (B,) of colours (B, 512), weighted by content (B, 1, 32, 32), without the global colour shift."""
    apart = (one - other).unflatten(1, (2, COARSE * COARSE))
    apart = (apart - apart.median(2, keepdim=True).values).abs().mean(1)
    weight = F.avg_pool2d(content, FINE // COARSE).flatten(1).square() + 1e-6
    return (weight * apart).sum(1) / weight.sum(1)
