"""Run the passes of a plan on a batch of uint8 pixels."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from datamodules.augment.colour import apply_color, apply_sharpness
from datamodules.augment.draw_plan import Pass, Plan
from datamodules.augment.geometry import apply_erase, apply_flip, apply_warp, grid_lines
from datamodules.augment.pixel_rows import PixelRows, batch_memory, rows_at_once
from datamodules.augment.tables import build_tables, histograms, look_up, mean_luma, table_places

# number of parameters of one sample, by kind of pass
_COLUMNS = {"warp": 7, "erase": 6, "noise": 6, "color": 1, "sharpness": 1}


def run_plan(images: torch.Tensor, plan: Plan, modules: Sequence[nn.Module] = ()) -> torch.Tensor:
    """Apply a plan to images (B, 3, H, W) uint8, ideally a channels_last view of NHWC.

    Args:
        images: The images; they do not change.
        plan: The passes, with tensors on the device of the images.
        modules: Modules of the passes of kind "module".

    Returns:
        (B, 3, H, W) uint8, channels_last; `images` if there is no pass.
    """
    if not plan.passes:
        return images
    pixels = images.permute(0, 2, 3, 1)
    pixels = batch_memory(pixels.shape, torch.uint8, pixels.device).copy_(pixels)
    drawn = iter(plan.modules)
    rows = plan.rows.split([group.rows for group in plan.passes])
    numbers = plan.numbers.split([group.rows * _columns(group) for group in plan.passes])
    changed = PixelRows(pixels)
    for group, group_rows, group_numbers in zip(plan.passes, rows, numbers, strict=True):
        if group.kind == "module":
            changed.change_whole(group_rows, partial(_apply_module, modules[group.module], next(drawn)))
        else:
            _run(group, changed, group_rows, group_numbers)
    return pixels.permute(0, 3, 1, 2)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Convert images (B, 3, H, W) uint8 to float32 in [0, 1], channels_last."""
    pixels = images.permute(0, 2, 3, 1)
    out = batch_memory(pixels.shape, torch.float32, pixels.device)
    at_once = rows_at_once(pixels)
    for target, part in zip(out.split(at_once), pixels.split(at_once), strict=True):
        target.copy_(part).div_(255)
    return out.permute(0, 3, 1, 2)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Round images (B, 3, H, W) float in [0, 1] to uint8."""
    return images.float().mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8)


def _apply_module(module: nn.Module, params: object, pixels: torch.Tensor) -> torch.Tensor:
    changed = module(to_float(pixels.permute(0, 3, 1, 2)), params=params)
    return to_uint8(changed).permute(0, 2, 3, 1)


def _columns(group: Pass) -> int:
    if group.kind == "tables":
        return 1 + len(group.statistical) + 256 * (1 + sum(group.composed))
    return _COLUMNS.get(group.kind, 0)


def _run(group: Pass, pixels: PixelRows, rows: torch.Tensor, numbers: torch.Tensor) -> None:
    if group.kind == "tables":
        places = table_places(pixels.at_once, pixels.width, numbers.device)
        means = pixels.read(rows[: group.contrast], mean_luma) if group.contrast else None
        start, stop = group.counted
        counts = pixels.read(rows[start:stop], partial(histograms, places=places)) if stop > start else None
        tables = build_tables(numbers.view(group.rows, -1), means, counts, group)
        pixels.change(rows, partial(look_up, places=places), tables)
    elif group.kind == "warp":
        numbers = numbers.view(-1, 7)
        matrices, fill = numbers[:, :6].view(-1, 2, 3), numbers[:, 6]
        pixels.change(rows, apply_warp, *grid_lines(matrices, pixels.height, pixels.width), fill)
    elif group.kind == "color":
        pixels.change(rows, apply_color, numbers)
    elif group.kind == "sharpness":
        pixels.change(rows, apply_sharpness, numbers)
    elif group.kind in ("erase", "noise"):
        pixels.change(rows, partial(apply_erase, noise=group.kind == "noise"), numbers.view(-1, 6))
    else:
        pixels.change(rows, partial(apply_flip, dim=2 if group.kind == "flip_width" else 1))
