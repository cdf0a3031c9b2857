"""Fine-tuning of a pretrained network: head warm-up and frozen first blocks."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BaseFinetuning
from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from litesort.errors import ModelError


class Finetuning(pl.Callback):
    """Freeze the first blocks for the whole run, and the whole body for the first epochs.

    A frozen part gets no gradients, and its BatchNorm statistics stay fixed. Parameters of frozen blocks are not in the
    optimiser. Parameters of the body are in it from the start, so layer decay and schedule do not change. The state
    depends on the epoch only, so a resumed run is exact. With several processes the gradients of the head-only epochs
    are computed and dropped, because DDP selects the synchronised parameters once.

    Lightning's `BackboneFinetuning` is not used: it adds parameter groups during the run, which breaks layer decay and
    schedule.

    Args:
        frozen_blocks: Blocks to freeze, with the stem, for the whole run; 0 freezes nothing. Blocks are those of
            timm's `group_matcher(coarse=True)`: blocks.0, blocks.1, ... or layer1, layer2, ...
        head_warmup_epochs: Number of first epochs that train the head only, 0 or more.

    Raises:
        ModelError: A number is negative, both are 0, the network has no `head_parameters()` or no `group_matcher()`,
            or its whole body is frozen.
    """

    def __init__(self, frozen_blocks: int = 0, head_warmup_epochs: int = 1) -> None:
        for key, value in {"frozen_blocks": frozen_blocks, "head_warmup_epochs": head_warmup_epochs}.items():
            if value < 0:
                raise ModelError(f"callbacks.finetuning.{key}={value} is invalid: expected an integer of at least 0")
        if not frozen_blocks and not head_warmup_epochs:
            raise ModelError(
                "callbacks.finetuning does nothing with frozen_blocks=0 and head_warmup_epochs=0: raise one of them"
            )
        self.frozen_blocks, self.head_warmup_epochs = frozen_blocks, head_warmup_epochs
        self._frozen: list[nn.Module] = []
        self._body: list[nn.Parameter] = []
        self._body_norms: list[nn.Module] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        net: Any = pl_module.net
        if not hasattr(net, "head_parameters"):
            raise ModelError("callbacks=[...,finetuning] needs a network with head_parameters()")
        head = {id(parameter) for parameter in net.head_parameters()}
        self._frozen = self._freeze(net.net, head) if self.frozen_blocks else []
        self._body = [parameter for parameter in BaseFinetuning.filter_params(net) if id(parameter) not in head]
        if not self._body:
            raise ModelError(
                f"callbacks.finetuning.frozen_blocks={self.frozen_blocks} leaves nothing of the body to train: lower it"
            )
        self._body_norms = [
            module
            for module in net.modules()
            if isinstance(module, _BatchNorm)
            and module not in self._frozen
            and all(parameter.requires_grad and id(parameter) not in head for parameter in module.parameters())
        ]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        head_only = trainer.current_epoch < self.head_warmup_epochs
        for parameter in self._body:
            parameter.requires_grad_(not head_only or trainer.world_size > 1)
        for norm in self._body_norms:
            norm.train(not head_only)
        for module in self._frozen:
            module.eval()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if trainer.world_size > 1 and trainer.current_epoch < self.head_warmup_epochs:
            for parameter in self._body:
                parameter.grad = None

    def _freeze(self, net: Any, head: set[int]) -> list[nn.Module]:
        """Freeze the first blocks of a timm network and return the modules whose parameters are all frozen."""
        if not hasattr(net, "group_matcher"):
            raise ModelError("callbacks.finetuning.frozen_blocks needs a network with timm's group_matcher()")
        groups = group_parameters(net, net.group_matcher(coarse=True))  # 0 is the stem
        names = [name for number in sorted(groups) if number <= self.frozen_blocks for name in groups[number]]
        frozen = {id(parameter) for parameter in map(net.get_parameter, names)} - head
        modules = []
        for module in net.modules():
            own = [id(parameter) for parameter in module.parameters()]
            if own and frozen.issuperset(own):
                modules.append(module)
        # BaseFinetuning.freeze sets track_running_stats=False, and Torch-Pruning then does not prune the statistics.
        for parameter in BaseFinetuning.filter_params(net):
            if id(parameter) in frozen:
                parameter.requires_grad_(False)
        return modules
