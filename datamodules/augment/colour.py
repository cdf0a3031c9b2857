"""Color and Sharpness, bit-exact with PIL's ImageEnhance."""

import torch


def luma(red: torch.Tensor, green: torch.Tensor, blue: torch.Tensor) -> torch.Tensor:
    """PIL's convert("L"): three planes of one shape, uint8 or float32 -> float32, whole numbers.

    All sums stay below 2^24, so that float32 is exact.
    """
    weighted = red.float() * 19595
    return weighted.add_(green.float() * 38470).add_(blue.float() * 7471).add_(32768).div_(65536).floor_()


def apply_color(pixels: torch.Tensor, factors: torch.Tensor) -> None:
    """Blend pixels (N, H, W, 3) uint8 with their grey values, in place; factors (N,) float32, 1 is the identity."""
    # planes: operations on interleaved channels are not vectorised
    planes = pixels.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    blended = _blend(planes, luma(*planes), factors.view(-1, 1, 1))
    for channel, plane in enumerate(blended):
        pixels[..., channel].copy_(plane)


def apply_sharpness(pixels: torch.Tensor, factors: torch.Tensor) -> None:
    """Blend pixels (N, H, W, 3) uint8 with a smoothed copy, in place; factors (N,) float32, 1 is the identity.

    The kernel is PIL's SMOOTH: 1 everywhere, 5 in the centre, divided by 13. The outermost pixels do not change.
    """
    if min(pixels.shape[1:3]) < 3:
        return
    whole = pixels.short()
    rows = whole[:, :-2] + whole[:, 1:-1] + whole[:, 2:]
    inner = whole[:, 1:-1, 1:-1]
    total = (rows[:, :, :-2] + rows[:, :, 1:-1]).add_(rows[:, :, 2:]).add_(inner, alpha=4)
    # a sum divided by 13 is never close to a half, so any float rounding gives PIL's result
    smooth = total.float().mul_(1 / 13).add_(0.5).floor_()
    centre = pixels[:, 1:-1, 1:-1]
    # via int32: direct conversion from float32 to uint8 takes twice the time on a CPU
    centre.copy_(_blend(centre.float(), smooth, factors.view(-1, 1, 1, 1)).int().to(torch.uint8))


def _blend(values: torch.Tensor, base: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    # as PIL's blend: float32, truncated when stored; two operations, since a fused one rounds differently
    return values.sub_(base).mul_(factors).add_(base).clamp_(0, 255)
