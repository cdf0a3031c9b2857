"""Where a network looked when it gave an answer."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

MAP_SIDE = 24  # pixels of a heat map, which is smooth

LEAST_SIDE = 3  # cells: a coarser map says nothing


def grad_cam(net: nn.Module, images: Tensor, answers: Tensor) -> Tensor:
    """How much each place of a photo spoke for the answer given, by the gradients at the net's last feature map.

    Convolutional nets: Grad-CAM (Selvaraju et al., 2017). Nets of tokens (ViT, DeiT): gradient times activation of each
    patch, in the last block that has patches. The net keeps its mode and has no gradients afterwards.

    Args:
        net: (B, 3, S, S) -> logits (B, C).
        images: (B, 3, S, S) float in [0, 1], on the net's device.
        answers: (B,) int64, the class asked about.

    Returns:
        (B, h, w) float32 in [0, 1] on the CPU, 1 where it looked most; all zero where nothing spoke for the answer.
        h and w are the feature map's: 3 to 14 in most nets.

    Raises:
        ValueError: The net has no layer that keeps places apart.
    """
    from captum.attr import LayerGradCam, LayerGradientXActivation

    training = net.training
    net.eval()
    try:
        layer, prefix, side = last_spatial_layer(net, images[:1])
        if prefix is None:
            found = LayerGradCam(net, layer).attribute(images, answers, relu_attributions=True)
            maps = _tensor(found).sum(1)
        else:
            found = LayerGradientXActivation(net, layer).attribute(images, answers)
            maps = functional.relu(_tensor(found).sum(2)[:, prefix:]).unflatten(1, (side, side))
    finally:
        net.train(training)
    maps = maps.detach().float().cpu()
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)


@torch.no_grad()
def last_spatial_layer(net: nn.Module, image: Tensor) -> tuple[nn.Module, int | None, int]:
    """The last layer, in order of use, whose output still tells places apart.

    Args:
        net: As in `grad_cam`.
        image: (1, 3, S, S).

    Returns:
        The layer; how many tokens stand before those of the patches, None where the output is a (B, C, H, W) map; the
        map's side. It has at least 3 x 3 places, or as many as there are.
    """
    maps: list[tuple[nn.Module, int | None, int]] = []
    tokens = int(getattr(getattr(net, "net", net), "num_prefix_tokens", 0))

    def look(layer: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if output.ndim == 4 and output.shape[2] == output.shape[3]:  # (B, heads, N, d) of attention is seldom square
            maps.append((layer, None, output.shape[2]))
        elif (
            output.ndim == 3 and (side := int((output.shape[1] - tokens) ** 0.5 + 0.5)) ** 2 + tokens == output.shape[1]
        ):
            maps.append((layer, tokens, side))

    hooks = [layer.register_forward_hook(look) for layer in net.modules() if layer is not net]
    try:
        net(image)
    finally:
        for hook in hooks:
            hook.remove()
    if not maps or max(side for *_, side in maps) < 2:
        raise ValueError("the net has no layer that keeps places apart")
    enough = [found for found in maps if found[2] >= LEAST_SIDE]
    # The last block of tokens feeds only the class token to the head: its patches have no gradient, so take its input.
    blocks = [found for found in enough if isinstance(found[0], nn.LayerNorm) and found[1] is not None]
    if enough and enough[-1][1] is not None and len(blocks) >= 3:
        return blocks[-3]
    return enough[-1] if enough else max(maps, key=lambda found: found[2])


def _tensor(found: Any) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def heat_maps(net: nn.Module, photos: np.ndarray, answers: np.ndarray) -> list[np.ndarray | None]:
    """Heat maps (MAP_SIDE, MAP_SIDE, 3) uint8 in colours of evenly rising brightness; None each where there is none."""
    from matplotlib import colormaps

    device = next(net.parameters()).device
    images = torch.from_numpy(photos).permute(0, 3, 1, 2).float().div_(255).to(device)
    try:
        found = grad_cam(net, images, torch.from_numpy(answers).to(device))
    except (RuntimeError, ValueError, AssertionError) as error:  # a picture less must not cost a training its result
        print(f"no heat maps of mistakes: {' '.join(str(error).split())[:200]}")
        return [None] * len(photos)
    side = (MAP_SIDE, MAP_SIDE)
    smooth = torch.nn.functional.interpolate(found[:, None], side, mode="bicubic", align_corners=False).clamp(0, 1)
    return [(colormaps["inferno"](heat.numpy())[..., :3] * 255).astype(np.uint8) for heat in smooth[:, 0]]
