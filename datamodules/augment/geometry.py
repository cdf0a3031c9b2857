"""Geometry: rotate, shear, translate, flip and crop as one warp a sample; random erasing."""

import kornia.geometry.transform as kornia
import numpy as np
import torch
from torch.nn import functional

ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y = range(5)


def operation_matrices(which: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Matrices of geometric operations, from output to input coordinates in [-1, 1] from edge to edge of the image.

    Args:
        which: (N,) int, one of the five constants of this module, -1 for none.
        amounts: (N,) float64: degrees clockwise, shear as in PIL's AFFINE (about the top left corner), or translation
            as a fraction of the side.

    Returns:
        (N, 3, 3) float64.
    """
    drawn = torch.from_numpy(np.where(which == np.arange(5)[:, None], amounts, 0.0))
    corner = torch.from_numpy(np.where((which == SHEAR_X) | (which == SHEAR_Y), -1.0, 0.0))[:, None].expand(-1, 2)
    # kornia's matrices map input to output and shear by the negative tangent: these are the inverse
    return kornia.get_affine_matrix2d(
        translations=2 * drawn[TRANSLATE_X : TRANSLATE_Y + 1].T,
        center=corner,
        scale=torch.ones_like(corner),
        angle=-drawn[ROTATE],
        sx=-torch.atan(drawn[SHEAR_X]),
        sy=-torch.atan(drawn[SHEAR_Y]),
    ).numpy()


def crop_matrices(boxes: np.ndarray) -> np.ndarray:
    """Matrices that stretch boxes to the whole image: (N, 4) left, top, width, height in [0, 1] -> (N, 3, 3)
    float64.
    """
    matrices = np.tile(np.eye(3), (len(boxes), 1, 1))
    matrices[:, [0, 1], [0, 1]] = boxes[:, 2:]
    matrices[:, :2, 2] = 2 * boxes[:, :2] + boxes[:, 2:] - 1
    return matrices


def grid_lines(matrices: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split sampling coordinates into a column and a row part: matrices (N, 2, 3) -> two of (N, 2, size); their sum is
    the grid.

    Coordinates are pixel centres; the edges of the image are -1 and 1 (grid_sample's align_corners=False).
    """
    centres = torch.arange(size, device=matrices.device).mul_(2).add_(1) / size - 1
    return matrices[:, :, :1] * centres, matrices[:, :, 1:2] * centres + matrices[:, :, 2:]


def apply_warp(pixels: torch.Tensor, across: torch.Tensor, down: torch.Tensor, fill: int) -> None:
    """Warp pixels (N, S, S, 3) uint8 in place, bilinear, rounded to nearest; across and down from `grid_lines`.

    As in PIL, coordinates within half a pixel of the outermost pixel centres take their value; coordinates farther out
    take `fill`. kornia's warp_affine gives the same pixels but takes twice the time, mostly to build the grid.
    """
    grid = down[..., None] + across[:, :, None]
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
    """Mirror pixels (N, S, S, 3) uint8 in place, across the height (dim 1) or the width (dim 2)."""
    pixels.copy_(pixels.flip(dim))


def apply_erase(pixels: torch.Tensor, numbers: torch.Tensor, fill: int | None) -> None:
    """Erase a box of pixels (N, S, S, 3) uint8 in place.

    Args:
        pixels: The images.
        numbers: (N, 5) float32: left, top, width, height in [0, 1], and a seed.
        fill: Grey value; None fills with noise that depends only on the seed and the position.
    """
    rows, size = len(pixels), pixels.shape[1]
    flat = pixels.view(rows, size, size * 3)
    centres = (torch.arange(size, device=pixels.device) + 0.5) / size
    near, far = numbers[:, :2, None], numbers[:, :2, None] + numbers[:, 2:4, None]
    across, down = ((near <= centres) & (centres < far)).unbind(1)
    box = down[:, :, None] & across.repeat_interleave(3, dim=1, output_size=3 * size)[:, None]
    if fill is None:
        flat.copy_(torch.where(box, _noise(numbers[:, 4], size), flat))
    else:
        flat.masked_fill_(box, fill)


def _noise(seeds: torch.Tensor, size: int) -> torch.Tensor:
    """Noise (N, S, 3 * S) uint8 from seeds (N,) float32, whole numbers: a hash with the same result on each device."""
    across = torch.arange(3 * size, device=seeds.device, dtype=torch.int32).mul_(0x2545F491)
    down = torch.arange(size, device=seeds.device, dtype=torch.int32).mul_(0x632BE5AB)[:, None]
    bits = (seeds.int().mul_(0x1B873593)[:, None, None] + down) ^ across
    bits = (bits ^ (bits >> 15)).mul_(0x2C1B3C6D)
    bits = (bits ^ (bits >> 12)).mul_(0x297A2D39)
    return (bits >> 15).to(torch.uint8)
