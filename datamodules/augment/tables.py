"""The six operations on pixel values, composed into one table a channel, bit-exact with PIL."""

import functools

import numpy as np
import torch

from datamodules.augment.colour import luma
from datamodules.augment.draw_plan import Pass
from datamodules.augment.slots import EQUALIZE


def build_tables(
    numbers: torch.Tensor, means: torch.Tensor | None, counts: torch.Tensor | None, group: Pass
) -> torch.Tensor:
    """Compose the steps of each sample into one table a channel: (N, 3, 256) uint8.

    Args:
        numbers: (N, K) float32, see `draw_plan`: Contrast's factor, AutoContrast or Equalize of each step, and tables.
        means: (C,) float32, mean grey of the samples with Contrast, which is the first step of these.
        counts: (H, 3, 256) int64, histograms of the samples with AutoContrast or Equalize.
        group: The pass, which defines these samples.
    """
    start, stop = group.counted
    later = iter(numbers[:, 1 + len(group.statistical) :].to(torch.uint8).split(256, dim=1))
    tables = next(later)[:, None].expand(-1, 3, -1).contiguous()
    if means is not None:
        tables[: len(means)] = _contrast(means[:, None], numbers[: len(means), :1])[:, None]
    for step, (composed, statistical) in enumerate(zip(group.composed, group.statistical, strict=True)):
        if composed:
            tables = next(later)[:, None].expand(-1, 3, -1).gather(2, tables.long())
        if statistical and counts is not None:
            some, statistic = tables[start:stop], numbers[start:stop, 1 + step].view(-1, 1, 1)
            # before the first step, the tables of these samples are the identity
            mapped = counts if step == 0 else _mapped_histograms(counts, some.long())
            tables[start:stop] = _statistical(some, mapped, statistic, step == 0)
    return tables


@functools.lru_cache(maxsize=16)
def table_places(rows: int, width: int, device: torch.device) -> torch.Tensor:
    """Offset of the table of each row and channel, (rows, 1, width * 3) int32, for index_select."""
    channels = torch.arange(width * 3, device=device, dtype=torch.int32).remainder_(3).mul_(256)
    return torch.arange(rows, device=device, dtype=torch.int32).mul_(768)[:, None, None] + channels


@functools.cache
def _values(device: torch.device) -> torch.Tensor:
    return torch.arange(256, device=device)


def look_up(pixels: torch.Tensor, tables: torch.Tensor, places: torch.Tensor) -> None:
    """Replace each value of pixels (N, H, W, 3) uint8, in place, by its entry in tables (N, 3, 256) uint8."""
    torch.index_select(tables.view(-1), 0, _entries(pixels, places), out=pixels.view(-1))


def _entries(pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return pixels.view(len(pixels), -1, places.shape[-1]).int().add_(places[: len(pixels)]).view(-1)


def _contrast(means: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Tables of PIL's Contrast: mean greys and factors (N, 1) float32 -> (N, 256) uint8."""
    # as PIL's blend: float32, truncated; two operations, since a fused one rounds differently
    return (_values(means.device) - means).mul_(factors).add_(means).clamp_(0, 255).to(torch.uint8)


def _mapped_histograms(counts: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Histograms after tables: counts and tables (N, 3, 256) int64 -> (N, 3, 256) int64."""
    lines = torch.arange(counts.numel() // 256, device=counts.device).mul_(256).view(-1, 3, 1)
    mapped = torch.zeros_like(counts).view(-1).scatter_add_(0, (places + lines).view(-1), counts.view(-1))
    return mapped.view_as(counts)


def _statistical(tables: torch.Tensor, counts: torch.Tensor, statistic: torch.Tensor, first: bool) -> torch.Tensor:
    """AutoContrast (1) and Equalize (2) after `tables` (N, 3, 256) uint8, from the histogram of the pixels after them;
    0 is the identity.
    """
    cumulative = counts.cumsum(2)
    largest = (cumulative < cumulative[..., -1:]).sum(2, keepdim=True)
    after = torch.where(
        statistic == EQUALIZE, equalize_tables(counts, cumulative, largest), autocontrast_tables(cumulative, largest)
    )
    return torch.where(statistic > 0, after if first else after.gather(2, tables.long()), tables)


def autocontrast_tables(cumulative: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Tables of PIL's ImageOps.autocontrast.

    Args:
        cumulative: (N, 3, 256) int64, cumulative counts.
        largest: (N, 3, 1) int64, the largest value present.

    Returns:
        (N, 3, 256) uint8.
    """
    rows = (cumulative == 0).sum(2).mul_(256).add_(largest[..., 0])
    return _stretches(cumulative.device).index_select(0, rows.view(-1)).view(cumulative.shape)


@functools.cache
def _stretches(device: torch.device) -> torch.Tensor:
    """Autocontrast's table for each lowest and highest value, (65536, 256) uint8: row low * 256 + high.

    PIL calculates in float64 and truncates, and MPS has no float64, so the host calculates them all once.
    """
    values = np.arange(256.0)
    high, tables = values[:, None], np.empty((256, 256, 256), dtype=np.uint8)
    for low in range(256):
        scale = 255.0 / np.maximum(high - low, 1)
        stretched = np.floor(np.clip(values * scale - low * scale, 0, 255))
        tables[low] = np.where(high > low, stretched, values)
    return torch.from_numpy(tables.reshape(-1, 256)).to(device)


def equalize_tables(counts: torch.Tensor, cumulative: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Tables of PIL's ImageOps.equalize.

    Args:
        counts: (N, 3, 256) int64.
        cumulative: (N, 3, 256) int64, cumulative counts.
        largest: (N, 3, 1) int64, the largest value present.

    Returns:
        (N, 3, 256) uint8.
    """
    # an image with a single value has a step of 0, and its table is the identity
    step = (cumulative[..., -1:] - counts.gather(2, largest)) // 255
    flat = ((cumulative - counts + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return torch.where(step > 0, flat, _values(counts.device)).to(torch.uint8)


def histograms(pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Count the values of each row and channel: pixels (N, H, W, 3) uint8 -> (N, 3, 256) int64."""
    entries, bins = _entries(pixels, places), 768 * len(pixels)
    if entries.device.type == "cpu":
        return torch.bincount(entries, minlength=bins).view(-1, 3, 256)
    # bincount waits for a GPU to find the largest value
    counts = torch.zeros(bins, dtype=torch.int32, device=entries.device)
    return counts.index_add_(0, entries, torch.ones_like(entries)).long().view(-1, 3, 256)


def mean_luma(pixels: torch.Tensor) -> torch.Tensor:
    """Mean grey that PIL's Contrast blends with: pixels (N, H, W, 3) uint8 -> (N,) float32, whole numbers."""
    area = pixels.shape[1] * pixels.shape[2]
    total = luma(*pixels.unbind(-1)).sum(dim=(1, 2), dtype=torch.int64)
    return ((2 * total + area) // (2 * area)).float()
