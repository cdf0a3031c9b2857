"""An exponential moving average of the weights: what is validated, kept as best and tested."""

from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lightning_modules import ModelError


class EMA(WeightAveraging):
    """Average the weights over the steps: `average += (1 - d) * (weights - average)`.

    `d = min(decay, (1 + n) / (10 + n))`, where `n` counts steps from 0: rising, so that the average forgets the random
    first weights. Floating-point buffers (BatchNorm statistics) are averaged like weights, integer ones copied.
    Lightning's `WeightAveraging` swaps the average in for validation, saves it as `state_dict`, and leaves it in the
    module when training ends.

    Args:
        decay: Largest share of the average that a step keeps, in (0, 1).

    Raises:
        ModelError: `decay` is out of range.

    Source: `tf.train.ExponentialMovingAverage(num_updates=...)`; timm `ModelEmaV3(use_warmup=True)`.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ModelError(f"callbacks.ema.decay={decay} is out of range: give a number between 0 and 1, e.g. 0.999")
        super().__init__()
        self.decay = decay
        self._updates = 0
        self._average: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._copied: list[Tensor] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Anew each epoch: moving a module replaces its buffers, and Lightning moves it after `setup`.
        assert self._average_model is not None
        self._average_model.to(pl_module.device)
        average = self._average_model.module
        now_all = chain(pl_module.parameters(), pl_module.buffers())
        pairs = list(zip(chain(average.parameters(), average.buffers()), now_all, strict=True))
        for mean, now in pairs:
            if mean.stride() != now.stride():  # channels_last came after the copy: foreach wants equal layouts
                mean.data = torch.empty_like(now).copy_(mean)
        floats = [(mean, now) for mean, now in pairs if now.is_floating_point()]
        others = [(mean, now) for mean, now in pairs if not now.is_floating_point()]
        self._average, self._weights = [mean.data for mean, _ in floats], [now.data for _, now in floats]
        self._kept, self._copied = [mean.data for mean, _ in others], [now.data for _, now in others]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step <= self._latest_update_step:
            return  # gradients are still being accumulated
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._average, self._weights, 1 - decay)
        if self._kept:
            torch._foreach_copy_(self._kept, self._copied)
        self._updates += 1
        self._latest_update_step = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        # The module holds the average now; loading best.ckpt for a test must not bring the raw weights back.
        self._average_model = None
        self._average, self._weights, self._kept, self._copied = [], [], [], []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "updates": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._updates = state_dict["updates"]
