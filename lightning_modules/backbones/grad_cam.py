"""Grad-CAM heat maps of predictions."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

MAP_SIDE = 24  # side of a heat map in px; heat maps are smooth
MIN_SIDE = 3  # smallest useful side of a feature map


def grad_cam(net: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Compute how much each image region supports a class, from the gradients at the last feature map.

    Convolutional networks use Grad-CAM (Selvaraju et al. 2017). Transformers (ViT, DeiT) use gradient times activation
    of each patch token in the last block with patch gradients. The training mode of the network is restored.

    Args:
        net: Network from (B, 3, S, S) images to (B, C) logits.
        images: (B, 3, S, S) float in [0, 1], on the device of the network.
        classes: (B,) int64, class to explain for each image.

    Returns:
        (B, h, w) float32 in [0, 1] on the CPU, with maximum 1; all zero if no region supports the class. h and w are
        the size of the feature map, 3 to 14 in most networks.

    Raises:
        ValueError: The network has no spatial feature map.
    """
    from captum.attr import LayerGradCam, LayerGradientXActivation

    training = net.training
    net.eval()
    try:
        layer, prefix, side = last_spatial_layer(net, images[:1])
        if prefix is None:
            found = LayerGradCam(net, layer).attribute(images, classes, relu_attributions=True)
            maps = _first_tensor(found).sum(1)
        else:
            found = LayerGradientXActivation(net, layer).attribute(images, classes)
            maps = functional.relu(_first_tensor(found).sum(2)[:, prefix:]).unflatten(1, (side, side))
    finally:
        net.train(training)
    maps = maps.detach().float().cpu()
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)


@torch.no_grad()
def last_spatial_layer(net: nn.Module, image: Tensor) -> tuple[nn.Module, int | None, int]:
    """Find the last layer, in order of execution, with a spatial output of at least 3 x 3 positions.

    If all outputs are smaller, the function returns the layer with the largest one.

    Args:
        net: As in `grad_cam`.
        image: (1, 3, S, S) float in [0, 1].

    Returns:
        The layer; the number of prefix tokens, or None if the output is a (B, C, H, W) feature map; the side of the
        map.

    Raises:
        ValueError: The network has no spatial feature map.
    """
    maps: list[tuple[nn.Module, int | None, int]] = []
    tokens = int(getattr(getattr(net, "net", net), "num_prefix_tokens", 0))

    def record_shape(layer: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if output.ndim == 4 and output.shape[2] == output.shape[3]:  # excludes most attention tensors (B, heads, N, d)
            maps.append((layer, None, output.shape[2]))
        elif (
            output.ndim == 3 and (side := int((output.shape[1] - tokens) ** 0.5 + 0.5)) ** 2 + tokens == output.shape[1]
        ):
            maps.append((layer, tokens, side))

    hooks = [layer.register_forward_hook(record_shape) for layer in net.modules() if layer is not net]
    try:
        net(image)
    finally:
        for hook in hooks:
            hook.remove()
    if not maps or max(side for *_, side in maps) < 2:
        raise ValueError("the network has no spatial feature map")
    large = [found for found in maps if found[2] >= MIN_SIDE]
    # The classifier uses only the class token of the last block, so the patch tokens of that block have no gradient.
    # An earlier layer is used instead.
    blocks = [found for found in large if isinstance(found[0], nn.LayerNorm) and found[1] is not None]
    if large and large[-1][1] is not None and len(blocks) >= 3:
        return blocks[-3]
    return large[-1] if large else max(maps, key=lambda found: found[2])


def _first_tensor(found: Any) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def heat_maps(net: nn.Module, pixels: np.ndarray, classes: np.ndarray) -> list[np.ndarray | None]:
    """Draw Grad-CAM heat maps with the colour map "inferno".

    Args:
        net: As in `grad_cam`.
        pixels: (B, S, S, 3) uint8 images.
        classes: (B,) int, class to explain for each image.

    Returns:
        (MAP_SIDE, MAP_SIDE, 3) uint8 for each image. All entries are None if Grad-CAM fails for the network.
    """
    from matplotlib import colormaps

    device = next(net.parameters()).device
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255).to(device)
    try:
        found = grad_cam(net, images, torch.from_numpy(classes).to(device))
    except (RuntimeError, ValueError, AssertionError) as error:  # a missing heat map must not stop the evaluation
        print(f"no heat maps of mistakes: {' '.join(str(error).split())[:200]}")
        return [None] * len(pixels)
    side = (MAP_SIDE, MAP_SIDE)
    smooth = torch.nn.functional.interpolate(found[:, None], side, mode="bicubic", align_corners=False).clamp(0, 1)
    return [(colormaps["inferno"](heat.numpy())[..., :3] * 255).astype(np.uint8) for heat in smooth[:, 0]]
