"""Exponential moving average of the weights. Validation, best.ckpt and test use the average."""

from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from litesort.errors import ModelError


class EMA(WeightAveraging):
    """Average the weights over the steps: `average += (1 - d) * (weights - average)`.

    `d = min(decay, n / (9 + n))` at step `n`, counted from 1. The rising decay reduces the influence of the first
    weights. Floating-point buffers (BatchNorm statistics) are averaged like weights; integer buffers are copied.
    Lightning's `WeightAveraging` validates with the average, saves it as `state_dict`, and leaves it in the module when
    training ends.

    Args:
        decay: Upper limit of d, in (0, 1).

    Raises:
        ModelError: `decay` is out of range.

    Source: `tf.train.ExponentialMovingAverage(num_updates=...)`; timm `ModelEmaV3(use_warmup=True)`.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ModelError(f"callbacks.ema.decay={decay} is invalid: expected a number between 0 and 1, e.g. 0.999")
        super().__init__()
        self.decay = decay
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Tensors are collected once per epoch, because moving or pruning replaces them. torch's own update collects
        # them in every step, which takes 6 ms.
        assert self._average_model is not None
        average = self._average_model.module.to(pl_module.device)
        tensors = ([t.data for t in chain(m.parameters(), m.buffers())] for m in (average, pl_module))
        pairs = list(zip(*tensors, strict=True))
        kinds = ([pair for pair in pairs if pair[0].is_floating_point() == floating] for floating in (True, False))
        self._pairs = [([mean for mean, _ in kind], [now for _, now in kind]) for kind in kinds]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step > self._latest_update_step:  # else gradients are accumulated
            (average, weights), (average_integers, integers) = self._pairs
            torch._foreach_lerp_(average, weights, 1 - min(self.decay, step / (9 + step)))
            if integers:
                torch._foreach_copy_(average_integers, integers)
            self._latest_update_step = step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        # The module now holds the average. Loading a checkpoint for a test must not restore the raw weights.
        self._average_model = None
        self._pairs = []

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average_model is not None:  # without an average Lightning only warns
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
