"""A plain PyTorch loop in a separate process, fed from memory or by common pipelines; for training.py and gpu.py."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from timm.data import create_loader
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from datamodules import images

BARE, TORCHVISION, TIMM = "bare loop, one batch", "torchvision v2", "timm rand-m9-inc1"
TICKS = os.sysconf("SC_CLK_TCK")  # clock ticks per second in /proc


@dataclass
class Task:
    """Task of a training loop.

    Attributes:
        cfg: Plain configs of model, objective and optimizer.
        root: Folder of the images.
        files: Path and label of each image of one turn, an epoch of the loop.
        class_counts: Number of training images of each class.
        size: Side of the images, px.
        batch: Images per batch.
        workers: Worker processes of a pipeline.
        threads: Threads of PyTorch.
        turns: Number of turns.
    """

    cfg: dict[str, Any]
    root: str
    files: list[tuple[str, int]]
    class_counts: list[int]
    size: int
    batch: int
    workers: int
    threads: int
    turns: int


class BaselineProcess:
    """A process that trains while `take_turn` runs, and waits otherwise."""

    def __init__(self, name: str, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_train_on_request, args=(name, task, other))
        self._process.start()
        other.close()

    def take_turn(self) -> np.ndarray:
        """Train for one turn; returns its wall and CPU seconds, (2,)."""
        self._pipe.send("go")
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def now() -> np.ndarray:
    """Wall seconds, and CPU seconds of this process and its workers, (2,)."""
    return np.array([time.perf_counter(), time.process_time() + sum(map(_cpu_of, multiprocessing.active_children()))])


def _cpu_of(process: Any) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _train_on_request(name: str, task: Task, pipe: Connection) -> None:
    torch.set_num_threads(task.threads)
    multiprocessing.set_start_method("fork", force=True)  # for the workers, the default on Linux
    net = instantiate(task.cfg["model"], num_classes=len(task.class_counts)).to(memory_format=torch.channels_last)
    objective = instantiate(task.cfg["objective"], class_counts=task.class_counts)
    steps = len(task.files) // task.batch
    learning = instantiate(task.cfg["optimizer"])(net, total_steps=steps * task.turns, steps_per_epoch=steps)
    feed = pipeline(name, task, net)
    # the pipelines normalise the images, so they skip the normalisation of the network
    turn = partial(_epoch, net if name == BARE else net.net, objective, *learning, feed)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        start = now()
        turn()
        pipe.send(now() - start)


def pipeline(name: str, task: Task, net: nn.Module) -> Iterable:
    """Return an iterable over the batches of a turn: images (B, 3, S, S) float32 and targets (B,) int64."""
    return {BARE: _one_batch, TORCHVISION: _torchvision, TIMM: _timm}[name](task, net)


def _epoch(net: nn.Module, objective: nn.Module, optimizer: Any, schedule: Any, batches: Iterable) -> None:
    """Take one step for each batch: images (B, 3, S, S) float32, targets (B,) int64."""
    net.train()
    parameters = list(net.parameters())
    for pixels, targets in batches:
        optimizer.zero_grad()
        objective(net(pixels.contiguous(memory_format=torch.channels_last)), targets)["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def _one_batch(task: Task, net: nn.Module) -> Iterable:
    pixels = np.stack([images.load(Path(path), task.size, "pad") for path, _ in task.files[: task.batch]])
    targets = torch.tensor([label for _, label in task.files[: task.batch]])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, targets
    return list(repeat(batch, len(task.files) // task.batch))


def _folder(task: Task, transform: Callable | None = None) -> ImageFolder:
    dataset = ImageFolder(task.root, transform, allow_empty=True)
    dataset.samples = task.files
    return dataset


def _torchvision(task: Task, net: nn.Module) -> DataLoader:
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(task.size),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(2, 14),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(net.mean.flatten().tolist(), net.std.flatten().tolist()),
        ]
    )
    dataset, workers = _folder(task, transform), task.workers
    return DataLoader(dataset, task.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def _timm(task: Task, net: nn.Module) -> Iterable:
    return create_loader(
        _folder(task),
        (3, task.size, task.size),
        task.batch,
        is_training=True,
        auto_augment="rand-m9-inc1",
        mean=tuple(net.mean.flatten().tolist()),
        std=tuple(net.std.flatten().tolist()),
        num_workers=task.workers,
        persistent_workers=task.workers > 0,
        device=torch.device("cpu"),
    )
