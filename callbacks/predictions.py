"""What the network answered on the test photos, kept for tables and pictures."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor


class Predictions(pl.Callback):
    """Collect the answers of a test, and the pictures of its most confident mistakes.

    All of it stays on the device until the epoch ends, so no batch waits. In DDP every rank gets everybody's answers.
    The module's `test_step` returns `{"logits": (B, C), "targets": (B,), "indices": (B,)}`.

    Attributes, set when a test ends:
        probabilities: (N, C) float32, rows sum to 1; ordered by `indices`.
        targets: (N,) int64, true class.
        indices: (N,) int64, row of the photo in the data module's `samples`.
        mistake_images: (M, S, S, 3) uint8, the most confident mistakes of this rank, worst first.
        mistake_rows: (M,) int64, their rows in `probabilities`.

    Args:
        mistakes: Largest number of pictures kept, 0 for none.
    """

    def __init__(self, mistakes: int = 24) -> None:
        self.mistakes = mistakes
        self.probabilities = np.zeros((0, 0), np.float32)
        self.targets = self.indices = self.mistake_rows = np.zeros(0, np.int64)
        self.mistake_images = np.zeros((0, 0, 0, 3), np.uint8)
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._worst: tuple[Tensor, Tensor, Tensor] | None = None

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._parts, self._worst = [], None

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        probabilities = outputs["logits"].detach().float().softmax(dim=1)
        self._parts.append((probabilities, outputs["targets"], outputs["indices"]))
        if self.mistakes:
            self._keep_worst(probabilities, outputs["targets"], outputs["indices"], batch[0])

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._parts:
            return
        probabilities, targets, indices = (torch.cat(parts).cpu().numpy() for parts in zip(*self._parts, strict=True))
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, (probabilities, targets, indices))
            probabilities, targets, indices = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
        # A distributed sampler may show a photo twice to give every rank equally many.
        self.indices, first = np.unique(indices, return_index=True)
        self.probabilities, self.targets = probabilities[first], targets[first]
        if self._worst is not None:
            confidence, rows, images = self._worst
            wrong = confidence > 0
            self.mistake_rows = np.searchsorted(self.indices, rows[wrong].cpu().numpy())
            self.mistake_images = to_uint8(images[wrong])
        self._parts, self._worst = [], None

    def _keep_worst(self, probabilities: Tensor, targets: Tensor, indices: Tensor, images: Tensor) -> None:
        confidence, answer = probabilities.max(dim=1)
        confidence = torch.where(answer != targets, confidence, -1.0)  # right answers sort last
        if self._worst is not None:
            pairs = zip(self._worst, (confidence, indices, images), strict=True)
            confidence, indices, images = (torch.cat(pair) for pair in pairs)
        confidence, order = confidence.topk(min(self.mistakes, len(confidence)))
        self._worst = confidence, indices[order], images[order]


def to_uint8(images: Tensor) -> np.ndarray:
    """Turn (B, 3, H, W) float in [0, 1] into (B, H, W, 3) uint8 on the host."""
    return images.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
