"""Overhead of a training step: a bare loop and ImageClassifier in Lightning's Trainer, in turn, on a tiny network.

    python benchmarks/overhead.py --steps 400 --repeats 5

The network is so small that a step is nearly all overhead. Metrics, progress bar, csv logger, schedule, learning-rate
monitor and gradient clipping are on. Epoch ends (validation) are excluded.
"""

import argparse
import functools
import tempfile
import time

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives.base import CrossEntropy
from lightning_modules.optim import configure_optimizer

CLASSES = ["Metal", "Paper", "Paperpack", "Plastic", "Plasticbag", "Styrofoam"]


class TinyNet(nn.Module):
    """One linear layer on the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, len(CLASSES))

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.mean(dim=(2, 3)))


class Clock(pl.Callback):
    """Wall and CPU seconds of the training steps of an epoch, from the start of the first to the end of the last."""

    def on_train_epoch_start(self, *_: object) -> None:
        self.start = now()

    def on_train_batch_end(self, *_: object) -> None:
        self.seconds = now() - self.start


def now() -> np.ndarray:
    """Wall and CPU seconds; CPU time is steadier on a shared machine."""
    return np.array([time.perf_counter(), time.process_time()])


def make_net() -> Backbone:
    return Backbone(TinyNet(), name="tiny", num_classes=len(CLASSES))


def bare(batches: DataLoader) -> np.ndarray:
    """Wall and CPU seconds per step of a minimal loop that trains the same network."""
    net = make_net().train()
    objective = CrossEntropy(label_smoothing=0.1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    start = now()
    for images, targets, _ in batches:
        optimizer.zero_grad()
        objective(net(images), targets)["loss"].backward()
        optimizer.step()
    return (now() - start) / len(batches)


def lightning(train: DataLoader, val: DataLoader, folder: str) -> np.ndarray:
    """Wall and CPU seconds per step of ImageClassifier in a Trainer with logger, progress bar and clipping."""
    module = ImageClassifier(
        make_net(), CrossEntropy(label_smoothing=0.1), functools.partial(configure_optimizer, lr=1e-3), CLASSES
    )
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=CSVLogger(folder),
        callbacks=[TQDMProgressBar(), LearningRateMonitor("epoch"), clock],
        num_sanity_val_steps=0,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        default_root_dir=folder,
    )
    trainer.fit(module, train, val)
    return clock.seconds / len(train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = args.batch_size
    batch = (torch.rand(size, 3, 8, 8), torch.randint(len(CLASSES), (size,)), torch.arange(size))
    train = DataLoader([batch] * args.steps, batch_size=None)
    val = DataLoader([batch] * 20, batch_size=None)
    times: dict[str, list[np.ndarray]] = {"bare loop": [], "litesort": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repeats):
            times["bare loop"].append(1e3 * bare(train))
            times["litesort"].append(1e3 * lightning(train, val, folder))
    times["overhead"] = [step - plain for step, plain in zip(times["litesort"], times["bare loop"], strict=True)]
    table = Table("ms per step", "wall", "min", "max", "CPU", title=f"{args.steps} steps x {args.repeats}, 1 thread")
    for name, pairs in times.items():
        wall, cpu = np.array(pairs).T
        table.add_row(name, *(f"{v:.2f}" for v in (np.median(wall), wall.min(), wall.max(), np.median(cpu))))
    Console().print(table)


if __name__ == "__main__":
    main()
