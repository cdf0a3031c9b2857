"""Run the passes of a plan on a batch of uint8 pixels."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from datamodules.augment.colour import apply_color, apply_sharpness
from datamodules.augment.draw_plan import Pass, Plan
from datamodules.augment.geometry import apply_erase, apply_flip, apply_warp, grid_lines
from datamodules.augment.pixel_rows import PixelRows, fresh, rows_at_once
from datamodules.augment.tables import build_tables, histograms, look_up, mean_luma, table_places

# numbers a sample; a table pass has 5 for each of its steps
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
    pixels = fresh(pixels.shape, torch.uint8, pixels.device).copy_(pixels)
    drawn = iter(plan.modules)
    for group in plan.passes:
        rows = PixelRows(pixels, plan.rows[group.row :][: group.rows])
        if group.kind == "module":
            rows.change_whole(partial(_apply_module, modules[group.module], next(drawn)))
        else:
            _run(group, rows, plan.numbers[group.number :])
    return pixels.permute(0, 3, 1, 2)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Convert images (B, 3, H, W) uint8 to float32 in [0, 1], channels_last."""
    pixels = images.permute(0, 2, 3, 1)
    out = fresh(pixels.shape, torch.float32, pixels.device)
    at_once = rows_at_once(pixels)
    for some, part in zip(out.split(at_once), pixels.split(at_once), strict=True):
        some.copy_(part).div_(255)
    return out.permute(0, 3, 1, 2)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Round images (B, 3, H, W) float in [0, 1] to uint8."""
    return images.float().mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8)


def _apply_module(module: nn.Module, params: object, pixels: torch.Tensor) -> torch.Tensor:
    changed = module(to_float(pixels.permute(0, 3, 1, 2)), params=params)
    return to_uint8(changed).permute(0, 2, 3, 1)


def _run(group: Pass, rows: PixelRows, numbers: torch.Tensor) -> None:
    columns = 5 * len(group.statistical) if group.kind == "tables" else _COLUMNS.get(group.kind, 0)
    numbers = numbers[: columns * group.rows].view(-1, columns or 1)
    if group.kind == "tables":
        places = table_places(rows.at_once, rows.width, numbers.device)
        means = rows.read(mean_luma, 0, group.contrast)
        counts = rows.read(partial(histograms, places=places), *group.counted)
        tables = build_tables(numbers.view(-1, group.rows, 5), means, counts, group)
        rows.change(partial(look_up, places=places), tables)
    elif group.kind == "warp":
        matrices, fill = numbers[:, :6].view(-1, 2, 3), numbers[:, 6]
        rows.change(apply_warp, *grid_lines(matrices, rows.height, rows.width), fill)
    elif group.kind == "color":
        rows.change(apply_color, numbers[:, 0])
    elif group.kind == "sharpness":
        rows.change(apply_sharpness, numbers[:, 0])
    elif group.kind in ("erase", "noise"):
        rows.change(partial(apply_erase, noise=group.kind == "noise"), numbers)
    else:
        rows.change(partial(apply_flip, dim=2 if group.kind == "flip_width" else 1))
