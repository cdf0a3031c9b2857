"""Fine-tuning with the first layers left as they are."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch import nn

from lightning_modules import ModelError


class Freeze(pl.Callback):
    """Keep parts of a pretrained network as they are for the whole run: no gradients, BatchNorm keeps its statistics.

    The first layers see the most pixels and change the least, and gradients stop above them, so that a step costs about
    half. Their parameters are no part of the optimiser.

    Args:
        modules: Names inside the timm network, e.g. ["conv_stem", "bn1", "blocks.0"].

    Raises:
        ModelError: No names, a name that the network does not have, or nothing left to train in its body.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        if not modules:
            raise ModelError("callbacks.freeze.modules=[] does nothing: name parts of the network, or leave it out")
        self.names = list(modules)
        self._modules: list[nn.Module] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        backbone: Any = pl_module.net
        known = dict(backbone.net.named_modules())
        for name in self.names:
            if name not in known:
                top = ", ".join(child for child, _ in backbone.net.named_children())
                raise ModelError(
                    f"callbacks.freeze.modules: the network has no {name}: choose from {top}, or parts of them"
                )
        self._modules = [known[name] for name in self.names]
        for module in self._modules:
            module.requires_grad_(False)
        head = {id(parameter) for parameter in backbone.head_parameters()}
        if not any(parameter.requires_grad and id(parameter) not in head for parameter in backbone.parameters()):
            raise ModelError(f"callbacks.freeze.modules={self.names} leaves nothing of the body to train: name fewer")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for module in self._modules:
            module.eval()
