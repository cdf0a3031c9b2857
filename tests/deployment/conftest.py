"""Fixtures: a small trained network and its input images."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from trained_resnet import SIZE, trained_resnet

from deployment.predictors import TorchPredictor
from lightning_modules.checkpoint import make_model_card

CLASSES = ["bag", "can", "cup"]


@pytest.fixture(scope="session")
def trained(image_folder: Path) -> SimpleNamespace:
    """A trained resnet10t in evaluation mode, and what it computes for 20 images of `image_folder`.

    Attributes: `net`, its model `card`, `pixels` (20, 32, 32, 3) uint8, `targets` (20,), the probabilities
    `expected` (20, 3), the image `files` and the `classes`.
    """
    normalisation = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    net, files, pixels, targets = trained_resnet(image_folder, CLASSES, **normalisation)
    config = {"name": "tiny", "data": {"size": SIZE}}
    card = make_model_card(net, CLASSES, preprocessing={"size": SIZE, "resize": "pad"}, config=config)
    expected = TorchPredictor(net)(pixels).numpy()
    assert len(set(expected.argmax(1))) == 3
    return SimpleNamespace(
        net=net, card=card, pixels=pixels, targets=targets.numpy(), expected=expected, files=files, classes=CLASSES
    )
