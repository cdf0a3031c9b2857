"""Lightning module of the training loop: network, objective, optimiser and metrics."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.checkpoint import MODEL_CARD, check_plain, make_model_card
from lightning_modules.host_memory import keep_freed_memory, return_freed_memory
from lightning_modules.metrics import StageMetrics
from lightning_modules.objectives.base import Objective
from litesort.errors import ModelError

# Lightning warnings that do not help the user: a torch class that torch 2.14 renames, and a hint for tiny data sets.
warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*", FutureWarning)
warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")


class ImageClassifier(pl.LightningModule):
    """Train and evaluate an image classifier.

    A batch is (images (B, 3, H, W) float in [0, 1], targets (B,) int64 or (B, C) float, indices (B,), ...). Steps do
    not synchronise with the device, except for the loss curve every `log_every_n_steps` steps.

    The module logs the loss terms of the objective as train/, val/ and test/NAME. For val and test it also logs the
    values of StageMetrics and of `objective.compute`.

    Args:
        net: Backbone.
        objective: Training objective.
        optimizer: Partial of `optim.configure_optimizer` without the network and the numbers of steps.
        classes: Class names, in the order of the logits.
        model_card: Model card from `make_model_card`, saved in each checkpoint; None builds one.
        channels_last: Use the channels_last memory format, which is faster.
        compile: Apply torch.compile to the network.

    Attributes:
        lr: Learning rate, for the LR finder of Lightning.
        metrics: StageMetrics of the stages "val" and "test".

    Raises:
        ModelError: The network has another number of classes, or the model card is not plain data.
    """

    def __init__(
        self,
        net: Backbone,
        objective: Objective,
        optimizer: Callable[..., tuple[torch.optim.Optimizer, Any]],
        classes: Sequence[str],
        *,
        model_card: dict[str, Any] | None = None,
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if len(classes) != net.num_classes:
            raise ModelError(
                f"the network has {net.num_classes} classes and the data has {len(classes)}: build it with "
                f"num_classes={len(classes)}"
            )
        net.match_head(classes)
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        self.objective = objective
        objective.attach(net, classes)
        self.classes = list(classes)
        self.model_card = make_model_card(net, classes) if model_card is None else model_card
        check_plain(self.model_card, MODEL_CARD)
        self.channels_last = channels_last
        self.metrics = nn.ModuleDict({stage: StageMetrics(self.classes) for stage in ("val", "test")})
        self.lr: float = getattr(optimizer, "keywords", {}).get("lr", 1e-3)
        self._optimizer = optimizer
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._image_counts: dict[str, int] = {}
        # a list, because setting an attribute of a module takes 10 us
        self._first_nonfinite_step = [torch.tensor(math.inf)]
        self._log_every, self._last_logged = 0, -1
        if compile:
            self.net.compile()  # in place, so that names in the checkpoint do not change

    def replace_net(self, net: Backbone) -> None:
        """Replace the network, e.g. by a pruned one. The caller must rebuild an existing optimiser.

        Args:
            net: The new backbone, on the device of the old one.
        """
        compiled = self.net._compiled_call_impl is not None
        net.train(self.training)
        self.net = net.to(memory_format=torch.channels_last) if self.channels_last else net
        self.objective.attach(net, self.classes)
        if compiled:
            self.net.compile()

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the logits of images.

        Args:
            images: (B, 3, H, W) float in [0, 1].

        Returns:
            (B, C) float logits, or a pair of them from a distilled DeiT in training.
        """
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets, *_ = batch
        terms = self.objective(self(images), targets, images)
        self._add("train", terms, len(targets))
        loss = terms["loss"]
        step, first = self.global_step, self._first_nonfinite_step[0]
        self._first_nonfinite_step[0] = torch.where(loss.detach().isfinite(), first, first.clamp(max=step))
        if self._log_every and (step + 1) % self._log_every == 0 and step != self._last_logged:
            self._last_logged = step  # once per step, for the first of its accumulated batches
            self._log_step_loss(float(loss.detach()))
        return loss

    def timing_step(self, net: nn.Module, images: Tensor) -> None:
        """Run the forward and backward pass of a training step without the objective, to time it.

        `precision.choose_precision` compares its times in fp32 and bf16.

        Args:
            net: Copy of the network.
            images: (B, 3, H, W) float in [0, 1].
        """
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        output = net.train()(images)
        heads = output if isinstance(output, tuple) else (output,)
        torch.stack([head.float().logsumexp(dim=1).mean() for head in heads]).sum().backward()

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate_step("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate_step("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        images, _, indices, *_ = batch
        with self.without_autocast():
            return {"probabilities": self(images).float().softmax(dim=1), "indices": indices}

    def without_autocast(self) -> torch.autocast:
        """Evaluate in the precision of the weights, as `evaluate.py` does: in bf16, macro F1 can differ by 0.02."""
        return torch.autocast(self.device.type, enabled=False)

    def on_fit_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()

    def on_fit_end(self) -> None:
        if self.device.type == "cpu":
            return_freed_memory()

    def on_train_epoch_start(self) -> None:
        self._log_every, self._last_logged = getattr(self.trainer, "log_every_n_steps", 0), -1
        self._begin("train")
        self._first_nonfinite_step[0] = torch.full((), math.inf, device=self.device)

    def on_validation_epoch_start(self) -> None:
        self._begin("val")

    def on_test_epoch_start(self) -> None:
        self._begin("test")

    def on_train_epoch_end(self) -> None:
        self._log(self._means("train"), on_progress_bar=("train/loss",))
        # the LR finder of Lightning increases the learning rate until the loss diverges
        finding_lr = any(type(callback).__name__ == "_LRCallback" for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        if math.isfinite(step := float(self._first_nonfinite_step[0])) and not finding_lr:
            raise ModelError(
                f"the loss was not a finite number at step {int(step)}: lower optimizer.lr={self.lr:g}, set "
                "trainer.gradient_clip_val=1 or use trainer.precision=32-true"
            )

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        trainer = self.trainer
        total = trainer.estimated_stepping_batches
        if not 0 < total < math.inf:
            raise ModelError("the length of the training is unknown: set trainer.max_epochs to a positive number")
        per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        # Lightning cannot clip in mixed precision with a fused optimiser, which may unscale gradients in its step
        clips_scaled = trainer.precision.endswith("-mixed") and bool(trainer.gradient_clip_val)
        optimizer, schedule = self._optimizer(
            self.net,
            lr=self.lr,
            total_steps=int(total),
            steps_per_epoch=per_epoch,
            fused=not clips_scaled,
            extra_parameters=list(self.objective.parameters()),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[MODEL_CARD] = {**self.model_card, "pruning": list(self.net.pruning)}

    def _evaluate_step(self, stage: str, batch: Any) -> dict[str, Tensor]:
        images, targets, indices, *_ = batch
        with self.without_autocast():
            logits = self(images)
            terms = self.objective(logits, targets, images)
        self._add(stage, terms, len(targets))
        self.metrics[stage].update(logits, targets)  # type: ignore[operator]
        return {"logits": logits, "targets": targets, "indices": indices}

    def _begin(self, stage: str) -> None:
        self._sums[stage], self._image_counts[stage] = {}, 0
        if stage in self.metrics:
            self.metrics[stage].reset()  # type: ignore[operator]
            self.objective.reset()

    def _add(self, stage: str, terms: dict[str, Tensor], count: int) -> None:
        """Sum the loss terms on the device."""
        sums = self._sums[stage]
        for name, value in terms.items():
            part = value.detach() * count
            sums[name] = sums[name] + part if name in sums else part
        self._image_counts[stage] += count

    def _means(self, stage: str) -> dict[str, Tensor]:
        """Return the means of the loss terms over the images of the epoch, on all ranks."""
        sums = self._sums[stage]
        totals = torch.stack([torch.tensor(float(self._image_counts[stage]), device=self.device), *sums.values()])
        totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        return {f"{stage}/{name}": value / totals[0] for name, value in zip(sums, totals[1:], strict=True)}

    def _finish(self, stage: str) -> None:
        if not self._sums[stage]:
            return
        values = self.metrics[stage].compute() | self.objective.compute()  # type: ignore[operator]
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self._log(self._means(stage) | named, on_progress_bar=(f"{stage}/f1_macro",))

    def _log(self, values: dict[str, Tensor], on_progress_bar: tuple[str, ...]) -> None:
        """Log the values of an epoch. They are equal on all ranks; sync_dist prevents a warning of Lightning."""
        distributed = self.trainer.world_size > 1
        for name, value in values.items():
            self.log(name, value, prog_bar=name in on_progress_bar, sync_dist=distributed)

    def _log_step_loss(self, loss: float) -> None:
        """Log the loss of this step. `self.log` would slow down every step and synchronise with the device."""
        for logger in self.loggers:
            logger.log_metrics({"train/loss_step": loss}, step=self.global_step)
        self.trainer.progress_bar_metrics["loss"] = loss
