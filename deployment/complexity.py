"""Size of a network: parameters, multiply-accumulates and bytes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from deployment.formats import find_format
from litesort.errors import DeploymentError

if TYPE_CHECKING:
    from deployment.predictors import Artifact


def profile(net: nn.Module, size: int) -> dict[str, int]:
    """Count the parameters of a network, and the multiply-accumulates of one forward pass.

    Convolutions, matrix products and attention count. Norms and activations do not, as is usual in the literature. The
    network keeps its device and training mode. It runs once, on one image, without gradients.

    Args:
        net: Network that takes a (1, 3, size, size) float image.
        size: Side of the image in px, above 0.

    Returns:
        `params` (trainable or not) and `macs`.

    Raises:
        DeploymentError: `size` is not a positive integer.

    Example:
        >>> profile(nn.Conv2d(3, 8, 3, padding=1, bias=False), size=10)
        {'params': 216, 'macs': 21600}
    """
    if size < 1:
        raise DeploymentError(f"size={size} is invalid: expected the side of an image in pixels, at least 1")
    parameters = list(net.parameters())
    first = parameters[0] if parameters else torch.empty(0)
    image = torch.zeros(1, 3, size, size, dtype=first.dtype, device=first.device)
    counter = FlopCounterMode(display=False)
    # The counter has no formula for the fused attention of CPUs. The MATH backend uses matrix products, which count.
    with eval_mode(net), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        net(image)
    return {"params": sum(math.prod(p.shape) for p in parameters), "macs": counter.get_total_flops() // 2}


def cost(artifact: "Artifact", size: int) -> dict[str, Any]:
    """Return the size and cost of a checkpoint or an exported file.

    Args:
        artifact: The checkpoint or exported file. For an exported file, `params` and `macs` are read from its card.
        size: Side of the input images in px.

    Returns:
        `params`, `macs` (both None if the card lacks them) and `bytes`; see `profile` and `size_in_bytes`.
    """
    if artifact.net is not None:
        counts: dict[str, Any] = dict(profile(artifact.net, size))
    else:
        counts = {key: artifact.card["exported"].get(key) for key in ("params", "macs")}
    return {**counts, "bytes": size_in_bytes(artifact.path, artifact.net)}


def size_in_bytes(path: str | Path, net: nn.Module | None) -> int:
    """Return the size of a network or of an exported file.

    Args:
        path: Path of the exported file; not used for a network.
        net: The network; None for an exported file.

    Returns:
        Bytes of the weights and buffers of the network, or of the exported file and its companion files.
    """
    if net is not None:
        return sum(tensor.nbytes for tensor in net.state_dict().values())
    export_format = find_format(path)
    files = [Path(path)] if export_format is None else export_format.files(path)
    return sum(file.stat().st_size for file in files if file.is_file())


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and restore the mode of each sub-module at the end."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
