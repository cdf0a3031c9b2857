"""A real classifier with a tiny network and tiny images, trained by a real Trainer."""

import csv
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_modules import optim
from lightning_modules.backbones.backbone import Backbone
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives.base import CrossEntropy

CLASSES = ["glass", "metal", "paper"]


class Net(nn.Module):
    """Convolution, BatchNorm, dropout and a head: layers that callbacks handle differently."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(6, len(CLASSES))

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.bn(self.conv(images)).relu().mean((2, 3))))


class Images(Dataset):
    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.targets = torch.arange(count) % len(CLASSES)
        self.images = torch.rand(count, 3, 8, 8, generator=generator) * 0.9
        for index, target in enumerate(self.targets.tolist()):
            self.images[index, target] += 0.03

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        return self.images[index], self.targets[index], index


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Images(32, 0), batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Images(24, 1), batch_size=12)

    test_dataloader = val_dataloader


class Scores(pl.Callback):
    """Log given values as `score`, one per epoch."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("score", self.scores[trainer.current_epoch])


def history_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the history.csv of a run."""
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def tiny_trainer(folder: Path, **settings: Any) -> pl.Trainer:
    """A Trainer on the CPU for three epochs, without logger, checkpoints and output; `settings` replace these."""
    defaults = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    return pl.Trainer(**(defaults | settings))


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.fixture
def make_module() -> Callable[..., ImageClassifier]:
    def make(seed: int = 0, **optimizer: Any) -> ImageClassifier:
        torch.manual_seed(seed)
        net = Backbone(Net(), name="tiny", num_classes=len(CLASSES), mean=[0.5] * 3, std=[0.25] * 3)
        settings = {"lr": 0.02, "warmup_epochs": 0.0, **optimizer}
        return ImageClassifier(net, CrossEntropy(), functools.partial(optim.configure_optimizer, **settings), CLASSES)

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    def make(*callbacks: pl.Callback, epochs: int = 3, **settings: Any) -> pl.Trainer:
        saves = any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks)
        own = {"max_epochs": epochs, "callbacks": list(callbacks), "enable_checkpointing": saves}
        return tiny_trainer(tmp_path, **{**own, "devices": 1, "num_sanity_val_steps": 0, **settings})

    return make


@pytest.fixture
def offline_run() -> Any:
    """The class that reads W&B's offline files; imported here, because wandb is an extra."""
    from wandb_file import OfflineRun

    return OfflineRun
