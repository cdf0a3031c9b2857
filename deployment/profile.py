"""What a net costs before any clock runs: parameters and multiply-accumulates."""

import torch


def profile(net: torch.nn.Module, size: int) -> dict[str, int]:
    """`params` and `macs` of one (1, 3, size, size) photo."""
    raise NotImplementedError
