"""Geometry on pixels: one warp a sample, flips, erased boxes, and the matrices of warps."""

import functools

import numpy as np
import torch
from torch.nn import functional


def crop_matrices(boxes: np.ndarray) -> np.ndarray:
    """Matrices that stretch boxes to the whole image: (N, 4) left, top, width, height in [0, 1] -> (N, 3, 3)
    float64.
    """
    matrices = np.tile(np.eye(3), (len(boxes), 1, 1))
    matrices[:, [0, 1], [0, 1]] = boxes[:, 2:]
    matrices[:, :2, 2] = 2 * boxes[:, :2] + boxes[:, 2:] - 1
    return matrices


def pixel_matrices(matrices: np.ndarray, height: int, width: int) -> np.ndarray:
    """Convert matrices to kornia's form: from input to output pixels.

    Args:
        matrices: (B, 3, 3) float64, from output to input coordinates in [-1, 1] between the edges of the image.
        height: Height of the images, px.
        width: Width of the images, px.

    Returns:
        (B, 3, 3) float64; pixel (0, 0) is the centre of the top left pixel.
    """
    to_unit = np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
    return np.linalg.inv(np.linalg.inv(to_unit) @ matrices @ to_unit)


def grid_lines(matrices: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split sampling coordinates into a column and a row part, (N, 2, width) and (N, 2, height); their sum is the grid.

    Coordinates are pixel centres; the edges of the image are -1 and 1 (grid_sample's align_corners=False).
    """
    across, down = _centres(width, matrices.device), _centres(height, matrices.device)
    return matrices[:, :, :1] * across, matrices[:, :, 1:2] * down + matrices[:, :, 2:]


@functools.lru_cache(maxsize=16)
def _centres(side: int, device: torch.device) -> torch.Tensor:
    """Pixel centres from -1 to 1 between the edges, (side,) float32."""
    return torch.arange(side, device=device).mul_(2).add_(1) / side - 1


def apply_warp(pixels: torch.Tensor, across: torch.Tensor, down: torch.Tensor, fill: torch.Tensor) -> None:
    """Warp pixels (N, H, W, 3) uint8 in place, bilinear, rounded to nearest; across and down from `grid_lines`.

    As in PIL, coordinates within half a pixel of the outermost pixel centres take their value; coordinates farther out
    take the grey of their sample, `fill` (N,) float32. kornia's warp_affine gives the same pixels but takes twice the
    time, mostly to build the grid.
    """
    grid, fill = down[..., None] + across[:, :, None], fill.view(-1, 1, 1, 1)
    # 1 inside, 0 outside; arithmetic, since comparisons are slow on a CPU
    inside = torch.rsub(torch.maximum(*grid.abs().unbind(1)), 1e30, alpha=1e30).clamp_(0, 1)
    warped = functional.grid_sample(
        pixels.permute(0, 3, 1, 2).float().sub_(fill),
        grid.permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    warped.mul_(inside[:, None]).add_(fill + 0.5)
    for channel in range(3):  # one strided copy a channel takes half the time of one permuted copy
        pixels[..., channel].copy_(warped[:, channel])


def apply_flip(pixels: torch.Tensor, dim: int) -> None:
    """Mirror pixels (N, H, W, 3) uint8 in place, across the height (dim 1) or the width (dim 2)."""
    pixels.copy_(pixels.flip(dim))


def box_mask(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Pixels whose centres lie in boxes: (N, 4) left, top, width, height in [0, 1] -> (N, height, width) bool."""
    across, down = _inside(boxes, height, width)
    return down[:, :, None] & across[:, None]


def _inside(boxes: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    across, down = _fractions(width, boxes.device), _fractions(height, boxes.device)
    left, top = boxes[:, :1], boxes[:, 1:2]
    return (left <= across) & (across < left + boxes[:, 2:3]), (top <= down) & (down < top + boxes[:, 3:4])


@functools.lru_cache(maxsize=16)
def _fractions(side: int, device: torch.device) -> torch.Tensor:
    """Pixel centres as fractions of the side, (side,) float32."""
    return (torch.arange(side, device=device) + 0.5) / side


def apply_erase(pixels: torch.Tensor, numbers: torch.Tensor, noise: bool) -> None:
    """Erase a box of pixels (N, H, W, 3) uint8 in place.

    Args:
        pixels: The images.
        numbers: (N, 6) float32: left, top, width, height in [0, 1], a seed, and a grey from 0 to 255.
        noise: Fill with noise that depends only on the seed and the position, in place of the grey.
    """
    rows, height, width = pixels.shape[:3]
    flat = pixels.view(rows, height, width * 3)
    across, down = _inside(numbers, height, width)
    box = down[:, :, None] & across.repeat_interleave(3, dim=1, output_size=3 * width)[:, None]
    inner = _noise(numbers[:, 4], height, width) if noise else numbers[:, 5].view(-1, 1, 1).to(torch.uint8)
    flat.copy_(torch.where(box, inner, flat))


def _noise(seeds: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Noise (N, H, 3 * W) uint8 from seeds (N,) float32, whole numbers: a hash with the same result on each device."""
    across = torch.arange(3 * width, device=seeds.device, dtype=torch.int32).mul_(0x2545F491)
    down = torch.arange(height, device=seeds.device, dtype=torch.int32).mul_(0x632BE5AB)[:, None]
    bits = (seeds.int().mul_(0x1B873593)[:, None, None] + down) ^ across
    bits = (bits ^ (bits >> 15)).mul_(0x2C1B3C6D)
    bits = (bits ^ (bits >> 12)).mul_(0x297A2D39)
    return (bits >> 15).to(torch.uint8)
