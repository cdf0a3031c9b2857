"""The module that is exported: uint8 images in, probabilities out."""

import copy

import torch
from torch import Tensor, nn

from litesort.errors import DeploymentError


class Deployable(nn.Module):
    """Conversion, normalisation, network, temperature and softmax in one module.

    Args:
        net: (B, 3, S, S) float32, normalised -> logits (B, C).
        mean: (3,) in [0, 1].
        std: (3,) above 0.
        temperature: Divisor of the logits, above 0.
        size: Side S of the images in pixels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor, temperature: float, size: int) -> None:
        super().__init__()
        self.net, self.temperature, self.size = net, temperature, size
        mean, std = (values.detach().double().reshape(1, 3, 1, 1) for values in (mean, std))
        # (x / 255 - mean) / std as one multiplication and one addition, because runtimes do not fold it.
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, S, S, 3) uint8 to probabilities (B, C) float32."""
        return self.classify(images.permute(0, 3, 1, 2).to(self.scale.dtype))

    def classify(self, pixels: Tensor) -> Tensor:
        """Map images (B, 3, S, S) float32 in [0, 255] to probabilities (B, C) float32."""
        logits = self.net(pixels * self.scale + self.shift).float()
        if self.temperature != 1:
            logits = logits / self.temperature
        return logits.softmax(1)

    def example(self, batch: int = 2) -> Tensor:
        """Return random images to trace the module with, (batch, S, S, 3) uint8."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (batch, self.size, self.size, 3), generator=generator, dtype=torch.uint8)


def deployable(net: nn.Module, size: int, temperature: float = 1.0) -> Deployable:
    """Copy a backbone into the module that is exported. The backbone does not change.

    Args:
        net: Backbone with `net`, `mean` and `std`, as lightning_modules.backbones.backbone builds it.
        size: Side of the images in pixels.
        temperature: Divisor of the logits, above 0.

    Returns:
        The module on the CPU, float32, in evaluation mode, without gradients.

    Raises:
        DeploymentError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise DeploymentError(f"temperature={temperature} is invalid: expected a number above 0")
    assert isinstance(net.net, nn.Module)
    inner = copy.deepcopy(net.net).cpu().float().eval()
    assert isinstance(net.mean, Tensor)
    assert isinstance(net.std, Tensor)
    fuse_branches(inner)
    return Deployable(inner, net.mean.cpu(), net.std.cpu(), temperature, size).eval().requires_grad_(False)


def fuse_branches(module: nn.Module) -> None:
    """Merge parallel training-time branches (RepVGG, FastViT) into one convolution, in place.

    It is equivalent to `timm.utils.reparameterize_model(module, inplace=True)`. This package does not depend on timm.
    """
    for name, child in module.named_children():
        if hasattr(child, "fuse") and callable(child.fuse):
            setattr(module, name, child.fuse())
        elif hasattr(child, "reparameterize"):
            child.reparameterize()  # type: ignore[operator]
        elif hasattr(child, "switch_to_deploy"):
            child.switch_to_deploy()  # type: ignore[operator]
        fuse_branches(getattr(module, name))
