"""Fixtures: a small trained network and its input images."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules import images
from deployment.predictors import TorchPredictor
from lightning_modules.backbones.backbone import create_backbone
from lightning_modules.checkpoint import make_model_card

CLASSES = ["bag", "can", "cup"]
SIZE = 32


@pytest.fixture(scope="session")
def trained(image_folder: Path) -> SimpleNamespace:
    """A trained resnet10t in evaluation mode, and what it computes for 20 images of `image_folder`.

    Attributes: `net`, its model `card`, `pixels` (20, 32, 32, 3) uint8, `targets` (20,), the probabilities
    `expected` (20, 3), the image `files` and the `classes`.
    """
    torch.manual_seed(0)
    net = create_backbone("resnet10t", 3, pretrained=False, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    files = sorted(image_folder.rglob("*.jpg"))[::3]
    pixels = np.stack([images.load(file, SIZE, "pad") for file in files])
    targets = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    optimizer = torch.optim.AdamW(net.train().parameters(), lr=3e-3)
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs), targets, label_smoothing=0.1).backward()
        optimizer.step()
    net.eval()
    config = {"name": "tiny", "data": {"size": SIZE}}
    card = make_model_card(net, CLASSES, preprocessing={"size": SIZE, "resize": "pad"}, config=config)
    expected = TorchPredictor(net)(pixels).numpy()
    assert len(set(expected.argmax(1))) == 3
    return SimpleNamespace(
        net=net, card=card, pixels=pixels, targets=targets.numpy(), expected=expected, files=files, classes=CLASSES
    )
