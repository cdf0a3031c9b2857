"""A small ResNet that is trained in a second, without a Trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules import images
from lightning_modules.backbones.backbone import Backbone, create_backbone

SIZE = 32


def trained_resnet(
    folder: Path, classes: Sequence[str], **settings: Any
) -> tuple[Backbone, list[Path], np.ndarray, Tensor]:
    """Train a resnet10t for 20 steps on every third JPEG of `folder`.

    Args:
        folder: One subfolder per class.
        classes: Class names, in the order of the logits.
        **settings: Settings of `create_backbone`.

    Returns:
        The network in evaluation mode, the N files, their pixels (N, 32, 32, 3) uint8, and their targets (N,).
    """
    files = sorted(folder.rglob("*.jpg"))[::3]
    pixels = np.stack([images.load(file, SIZE, "pad") for file in files])
    targets = torch.tensor([classes.index(file.parent.name) for file in files])
    torch.manual_seed(0)
    net = create_backbone("resnet10t", len(classes), pretrained=False, **settings)
    optimizer = torch.optim.AdamW(net.train().parameters(), lr=3e-3)
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs), targets, label_smoothing=0.1).backward()
        optimizer.step()
    return net.eval(), files, pixels, targets
