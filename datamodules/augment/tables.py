"""The six operations on pixel values, composed into one table a channel, bit-exact with PIL."""

import functools

import numpy as np
import torch
from torch.nn import functional

from datamodules.augment.colour import luma
from datamodules.augment.draw_plan import Pass
from datamodules.augment.slots import ABOUT_MEAN, EQUALIZE, FACTOR, QUANTUM, STATISTIC, THRESHOLD


def build_tables(steps: torch.Tensor, means: torch.Tensor, counts: torch.Tensor, group: Pass) -> torch.Tensor:
    """Compose the steps of each sample into one table a channel: (N, 3, 256) uint8.

    Args:
        steps: (L, N, 5) float32, with the columns of `slots`.
        means: (C,) float32, mean grey of the samples with Contrast.
        counts: (H, 3, 256) int64, histograms of the samples with AutoContrast or Equalize.
        group: The pass, which defines these samples.
    """
    start, stop = group.counted
    values = torch.arange(256, device=steps.device, dtype=torch.float32)
    tables = values.expand(group.rows, 3, 256).contiguous()
    means = functional.pad(means, (0, group.rows - len(means)))
    for step, statistical in zip(steps, group.statistical, strict=True):
        tables = _pointwise(tables, step, means)
        if statistical:
            tables[start:stop] = _statistical(tables[start:stop], counts, step[start:stop, STATISTIC, None, None])
    return tables.to(torch.uint8)


def table_places(rows: int, width: int, device: torch.device) -> torch.Tensor:
    """Offset of the table of each row and channel, (rows, 1, width * 3) int32, for index_select."""
    channels = torch.arange(width * 3, device=device, dtype=torch.int32).remainder_(3).mul_(256)
    return torch.arange(rows, device=device, dtype=torch.int32).mul_(768)[:, None, None] + channels


def look_up(pixels: torch.Tensor, tables: torch.Tensor, places: torch.Tensor) -> None:
    """Replace each value of pixels (N, H, W, 3) uint8, in place, by its entry in tables (N, 3, 256) uint8."""
    torch.index_select(tables.view(-1), 0, _entries(pixels, places), out=pixels.view(-1))


def _entries(pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return pixels.view(len(pixels), -1, places.shape[-1]).int().add_(places[: len(pixels)]).view(-1)


def _pointwise(tables: torch.Tensor, step: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Solarize, Posterize, Brightness and Contrast; each is the identity at its neutral value."""
    columns = step[:, :, None, None]
    tables = torch.where(tables < columns[:, THRESHOLD], tables, 255 - tables)
    tables.div_(columns[:, QUANTUM]).floor_().mul_(columns[:, QUANTUM])
    base = (means * step[:, ABOUT_MEAN])[:, None, None]
    # as PIL's blend: float32, truncated; two operations, since a fused one rounds differently
    return tables.sub_(base).mul_(columns[:, FACTOR]).add_(base).clamp_(0, 255).floor_()


def _statistical(tables: torch.Tensor, counts: torch.Tensor, statistic: torch.Tensor) -> torch.Tensor:
    """AutoContrast (1) and Equalize (2) after `tables`, from the histogram of the pixels before them; 0 is the
    identity.
    """
    places = tables.long()
    lines = torch.arange(counts.numel() // 256, device=counts.device).mul_(256).view(-1, 3, 1)
    pushed = torch.zeros_like(counts).view(-1).scatter_add_(0, (places + lines).view(-1), counts.view(-1))
    pushed = pushed.view_as(counts)
    after = torch.where(statistic == EQUALIZE, equalize_tables(pushed), autocontrast_tables(pushed))
    return torch.where(statistic > 0, after.gather(2, places).float(), tables)


def autocontrast_tables(counts: torch.Tensor) -> torch.Tensor:
    """Tables of PIL's ImageOps.autocontrast: counts (N, 3, 256) int64 -> (N, 3, 256) int64."""
    values = torch.arange(256, device=counts.device)
    present = counts > 0
    low = torch.where(present, values, 255).amin(2)
    high = torch.where(present, values, 0).amax(2)
    return _stretches(counts.device)[(low * 256 + high).view(-1)].view(counts.shape).long()


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


def equalize_tables(counts: torch.Tensor) -> torch.Tensor:
    """Tables of PIL's ImageOps.equalize: counts (N, 3, 256) int64 -> (N, 3, 256) int64."""
    values = torch.arange(256, device=counts.device)
    up_to = counts.cumsum(2)
    # the count of the largest value present: of one value only, all; the step is 0 then and the table the identity
    last = torch.where(counts > 0, values, 0).amax(2, keepdim=True)
    step = (up_to[..., -1:] - counts.gather(2, last)) // 255
    flat = ((up_to - counts + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return torch.where(step > 0, flat, values)


def histograms(pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Count the values of each row and channel: pixels (N, H, W, 3) uint8 -> (N, 3, 256) int64."""
    entries, bins = _entries(pixels, places), 768 * len(pixels)
    if entries.device.type == "cpu":
        return torch.bincount(entries, minlength=bins).view(-1, 3, 256)
    # bincount synchronises with a GPU to find the largest value
    counts = torch.zeros(bins, dtype=torch.int32, device=entries.device)
    return counts.index_add_(0, entries, torch.ones_like(entries)).long().view(-1, 3, 256)


def mean_luma(pixels: torch.Tensor) -> torch.Tensor:
    """Mean grey that PIL's Contrast blends with: pixels (N, H, W, 3) uint8 -> (N,) float32, whole numbers."""
    area = pixels.shape[1] * pixels.shape[2]
    total = luma(*pixels.unbind(-1)).sum(dim=(1, 2), dtype=torch.int64)
    return ((2 * total + area) // (2 * area)).float()
