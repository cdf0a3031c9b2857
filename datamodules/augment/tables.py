"""The six operations on pixel values, composed into one table a channel, bit-exact with PIL."""

import torch
from torch.nn import functional

from datamodules.augment.colour import luma
from datamodules.augment.draw_plan import ABOUT_MEAN, EQUALIZE, FACTOR, QUANTUM, STATISTIC, THRESHOLD, Pass


def build_tables(steps: torch.Tensor, means: torch.Tensor, counts: torch.Tensor, group: Pass) -> torch.Tensor:
    """Compose the steps of each sample into one table a channel: (N, 3, 256) uint8.

    Args:
        steps: (L, N, 5) float32, with the columns of `draw_plan`.
        means: (C,) float32, mean grey of the samples with Contrast.
        counts: (H, 3, 256) float64, histograms of the samples with AutoContrast or Equalize.
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


def table_places(rows: int, size: int, device: torch.device) -> torch.Tensor:
    """Offset of the table of each row and channel, (rows, 1, size * 3) int32, for index_select."""
    channels = torch.arange(size * 3, device=device, dtype=torch.int32).remainder_(3).mul_(256)
    return torch.arange(rows, device=device, dtype=torch.int32).mul_(768)[:, None, None] + channels


def look_up(pixels: torch.Tensor, tables: torch.Tensor, places: torch.Tensor) -> None:
    """Replace each value of pixels (N, S, S, 3) uint8, in place, by its entry in tables (N, 3, 256) uint8."""
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
    """Tables of PIL's ImageOps.autocontrast: counts (N, 3, 256) float64 -> (N, 3, 256) float64, whole numbers."""
    values = torch.arange(256, device=counts.device, dtype=counts.dtype)
    present = counts > 0
    low = torch.where(present, values, 255.0).amin(2, keepdim=True)
    high = torch.where(present, values, 0.0).amax(2, keepdim=True)
    # not 255.0 / x, which torch computes as 255 times a rounded 1 / x
    scale = torch.full_like(high, 255.0).div_((high - low).clamp_(min=1))
    stretched = (values * scale).sub_(low * scale).clamp_(0, 255).floor_()
    return torch.where(high > low, stretched, values)


def equalize_tables(counts: torch.Tensor) -> torch.Tensor:
    """Tables of PIL's ImageOps.equalize: counts (N, 3, 256) float64 -> (N, 3, 256) float64, whole numbers.

    float64 division with rounding down is exact for these numbers and much faster than integer division.
    """
    values = torch.arange(256, device=counts.device, dtype=counts.dtype)
    up_to = counts.long().cumsum(2).to(counts.dtype)
    # count of the largest value present; with one value only, the step is 0 and the table is the identity
    last = torch.where(counts > 0, values, 0.0).amax(2, keepdim=True).long()
    step = (up_to[..., -1:] - counts.gather(2, last)).div_(255).floor_()
    flat = (up_to - counts).add_((step / 2).floor_()).div_(step.clamp(min=1)).floor_().clamp_(max=255)
    return torch.where(step > 0, flat, values)


def histograms(pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Count the values of each row and channel: pixels (N, S, S, 3) uint8 -> (N, 3, 256) float64."""
    entries, bins = _entries(pixels, places), 768 * len(pixels)
    if entries.device.type == "cpu":
        return torch.bincount(entries, minlength=bins).double().view(-1, 3, 256)
    # bincount synchronises with a GPU to find the largest value
    counts = torch.zeros(bins, dtype=torch.int32, device=entries.device)
    return counts.index_add_(0, entries, torch.ones_like(entries)).double().view(-1, 3, 256)


def mean_luma(pixels: torch.Tensor) -> torch.Tensor:
    """Mean grey that PIL's Contrast blends with: pixels (N, S, S, 3) uint8 -> (N,) float32, whole numbers."""
    total = luma(*pixels.unbind(-1)).sum(dim=(1, 2), dtype=torch.float64)
    return (total / pixels.shape[1] ** 2 + 0.5).floor().float()
