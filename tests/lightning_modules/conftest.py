"""Small network and images for tests with a Trainer."""

import functools
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from tiny_training import tiny_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives.base import CrossEntropy, Objective
from lightning_modules.optim import configure_optimizer

CLASSES = ["Metal", "Paper", "Plastic"]


class Batch(NamedTuple):
    images: Tensor
    targets: Tensor
    indices: Tensor
    draws: None = None


class Colour(nn.Module):
    """Small network: logits are a linear function of the mean colour."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def get_classifier(self):
        return self.fc

    def forward(self, images):
        return self.fc(images.mean(dim=(2, 3)))


def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(Colour(), name="colour", num_classes=3)


def loader(steps: int = 4, seed: int = 0, soft: bool = False) -> DataLoader:
    """Images whose brightest channel is their class."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for i in range(steps):
        targets = torch.randint(3, (8,), generator=generator)
        images = 0.5 * torch.rand(8, 3, 8, 8, generator=generator)
        images[torch.arange(8), targets] += 0.4
        y = torch.nn.functional.one_hot(targets, 3).float() if soft else targets
        batches.append(Batch(images, y, torch.arange(8) + 8 * i))
    return DataLoader(batches, batch_size=None)


def module(
    net: Backbone | None = None, objective: Objective | None = None, lr: float = 0.1, name: str = "adamw", **settings
):
    optimizer = functools.partial(configure_optimizer, lr=lr, name=name)
    return ImageClassifier(net or backbone(), objective or CrossEntropy(), optimizer, CLASSES, **settings)


@pytest.fixture
def tiny() -> SimpleNamespace:
    """Network, loader, module and trainer for tests of the training loop."""
    return SimpleNamespace(
        Batch=Batch,
        Colour=Colour,
        CLASSES=CLASSES,
        backbone=backbone,
        loader=loader,
        module=module,
        trainer=tiny_trainer,
    )
