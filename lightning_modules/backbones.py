"""A timm network with its normalisation inside, from a name."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class Backbone(nn.Module):
    """Normalise photos and classify them with a timm network. (Signatures first; the body follows.)

    Attributes: net (timm model), mean, std (1, 3, 1, 1) float buffers, name, num_classes, origin, kwargs, head_names.
    """

    name: str
    origin: str
    num_classes: int
    head_names: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters of the classifier layer(s)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """images: (B, 3, H, W) float in [0, 1] -> logits (B, C); a distilled DeiT in training: a pair of those."""
        raise NotImplementedError


def create_backbone(
    name: str,
    num_classes: int,
    pretrained: bool | str = "auto",
    weights: str | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Backbone:
    """Build a backbone; num_classes comes from the data: `instantiate(cfg.model, num_classes=len(classes))`."""
    raise NotImplementedError
