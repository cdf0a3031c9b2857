"""Fine-tuning in two steps: the new head first, then everything."""

from typing import Any

import pytorch_lightning as pl
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from lightning_modules import ModelError


class HeadWarmup(pl.Callback):
    """Freeze the pretrained body for the first epochs, so that a random head does not spoil it.

    Frozen means: no gradients, and BatchNorm keeps its statistics. What to do follows from the epoch alone, so a
    resumed run goes on right. With several processes the gradients are computed and dropped instead: DDP decides once
    which parameters it synchronises.

    Args:
        epochs: Epochs of head-only training, at least 1.

    Raises:
        ModelError: `epochs` is below 1, or the network has no `head_parameters()`.
    """

    def __init__(self, epochs: int = 1) -> None:
        if epochs < 1:
            raise ModelError(f"callbacks.head_warmup.epochs={epochs} does nothing: give at least 1, or leave it out")
        self.epochs = epochs
        self._body: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        net: Any = pl_module.net
        if not hasattr(net, "head_parameters"):
            raise ModelError("callbacks=head_warmup needs a network with head_parameters(); this one has none")
        head = {id(parameter) for parameter in net.head_parameters()}
        self._body = [
            parameter for parameter in net.parameters() if id(parameter) not in head and parameter.requires_grad
        ]
        self._norms = [
            module
            for module in net.modules()
            if isinstance(module, _BatchNorm) and not any(id(p) in head for p in module.parameters())
        ]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        frozen = trainer.current_epoch < self.epochs
        for parameter in self._body:
            parameter.requires_grad_(not frozen or trainer.world_size > 1)
        for norm in self._norms:
            norm.train(not frozen)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if trainer.world_size > 1 and trainer.current_epoch < self.epochs:
            for parameter in self._body:
                parameter.grad = None
