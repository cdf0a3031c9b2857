"""What a net costs before any clock runs: parameters and multiply-accumulates."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from deployment.formats import find_format
from litesort.errors import DeploymentError


def profile(net: nn.Module, size: int) -> dict[str, int]:
    """Count the parameters, and the multiply-accumulates of one (1, 3, size, size) float photo.

    Convolutions, matrix products and attention count, norms and activations do not, as is usual in the literature. The
    net keeps its device and training mode, and one photo without gradients is all that it has to hold in memory.

    Returns:
        `params` (trainable or not) and `macs`.

    Raises:
        DeploymentError: `size` is not a positive integer.

    Example:
        >>> profile(nn.Conv2d(3, 8, 3, padding=1, bias=False), size=10)
        {'params': 216, 'macs': 21600}
    """
    if size < 1:
        raise DeploymentError(f"size={size} is out of range: give the side of a photo in pixels, at least 1")
    parameters = list(net.parameters())
    like = parameters[0] if parameters else torch.empty(0)
    photo = torch.zeros(1, 3, size, size, dtype=like.dtype, device=like.device)
    counter = FlopCounterMode(display=False)
    # The counter knows no formula for the fused attention of CPUs; the plain one is matrix products, which it counts.
    with evaluating(net), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        net(photo)
    return {"params": sum(math.prod(p.shape) for p in parameters), "macs": counter.get_total_flops() // 2}


def cost(net: nn.Module | None, record: Mapping[str, Any], size: int) -> dict[str, Any]:
    """`profile` of a checkpoint's network, or, for an exported file (`net` None), what its record says of it."""
    if net is not None:
        return profile(net, size)
    return {key: record["exported"].get(key) for key in ("params", "macs")}


def size_in_bytes(path: str | Path, net: nn.Module | None) -> int:
    """Bytes that a device has to hold: a network's weights and buffers, or an exported file with its companions."""
    if net is not None:
        return sum(tensor.nbytes for tensor in net.state_dict().values())
    one = find_format(path)
    files = [Path(path)] if one is None else one.files(path)
    return sum(file.stat().st_size for file in files if file.is_file())


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a net into evaluation mode for a while; then every sub-module gets its own mode back."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
