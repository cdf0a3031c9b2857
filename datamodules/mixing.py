"""Mixup and cutmix on a batch that is already on the device."""

from torch import nn


class Mixing(nn.Module):
    """Blend each sample with another of its batch (mixup, cutmix); the targets become probabilities."""

    def __init__(
        self,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        probability: float = 1.0,
        cutmix_share: float = 0.5,
        per: str = "batch",
    ) -> None:
        super().__init__()
