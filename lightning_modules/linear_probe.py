"""Linear probe: fit the classifier of a frozen network to its features, without a gradient through the network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives.base import Objective
from lightning_modules.objectives.distillation import Distillation
from litesort.errors import ModelError

MAX_ITERATIONS = 100  # of L-BFGS


class LinearProbe(ImageClassifier):
    """Fit the classifier of a pretrained network to the features of all training images.

    Each epoch computes the features of each training image once, with the augmentation of that epoch. The validation
    at the end of the epoch fits one classifier for each weight decay to the features of all epochs so far, and keeps
    the classifier with the lowest validation loss. The rest of the network does not change, BatchNorm statistics
    included. Memory: 4 bytes per feature, image and epoch.

    Args:
        net: Backbone with a linear classifier.
        objective: Objective that needs labels only.
        optimizer: None, because L-BFGS fits the classifier.
        classes: Class names, in the order of the logits.
        weight_decay: Candidate weights of the L2 penalty, each above 0; see `fit_linear`.
        **settings: See `ImageClassifier`.

    Raises:
        ModelError: A setting is invalid or has no effect, or the classifier is not linear.
    """

    def __init__(
        self,
        net: Backbone,
        objective: Objective,
        optimizer: Any,
        classes: Sequence[str],
        *,
        weight_decay: Sequence[float],
        **settings: Any,
    ) -> None:
        _check(net, objective, optimizer, weight_decay, settings)
        super().__init__(net, objective, optimizer, classes, **settings)
        self.automatic_optimization = False
        self.weight_decay = list(weight_decay)
        self._train: list[tuple[Tensor, Tensor]] = []  # features (B, D) float32 and targets of each batch
        self._val: list[tuple[Tensor, Tensor]] = []  # the same for validation

    @property
    def _heads(self) -> list[nn.Linear]:
        return [self.net.net.get_submodule(name) for name in self.net.head_names]  # type: ignore[misc]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def timing_step(self, net: nn.Module, images: Tensor) -> None:
        """Run the forward pass of a training step, to time it."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            net.eval()(images)

    def on_train_start(self) -> None:
        """After a resume, compute the features of earlier epochs again. A checkpoint does not contain them."""
        if self.trainer.world_size > 1:
            raise ModelError(f"trainer.devices={self.trainer.world_size} is invalid for a linear probe: give 1")
        self.net.eval()
        loader: Any = self.trainer.train_dataloader
        for epoch in range(self.trainer.current_epoch):
            loader.sampler.set_epoch(epoch)
            for number, batch in enumerate(islice(loader, int(self.trainer.num_training_batches))):
                with self.trainer.precision_plugin.train_step_context():
                    self.training_step(self.trainer.strategy.batch_to_device(batch), number)

    def replace_net(self, net: Backbone) -> None:
        super().replace_net(net)
        self._clear_features()

    def on_fit_end(self) -> None:
        super().on_fit_end()
        self._clear_features()

    def on_train_epoch_start(self) -> None:
        self.net.eval()

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        images, targets, *_ = batch
        self._train.append((self._features(images), targets))

    def on_train_epoch_end(self) -> None:
        """Log nothing: `on_validation_epoch_end` has logged the loss of the fit."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        if batch_idx == len(self._val):  # the validation images are the same in each epoch
            images, targets, *_ = batch
            with self.without_autocast():
                self._val.append((self._features(images), targets))

    def on_validation_epoch_end(self) -> None:
        """Fit the classifiers, keep the best one, and log its metrics as those of the epoch."""
        features, targets = map(torch.cat, zip(*self._val, strict=True))
        if self._train:  # none in `trainer.validate`, which evaluates the classifier as it is
            with torch.inference_mode(False), torch.enable_grad():  # Lightning validates in inference mode
                train_features, train_targets = map(torch.cat, zip(*self._train, strict=True))
                fits = fit_linear(train_features, train_targets, len(self.classes), self._loss, self.weight_decay)
            best = min(fits, key=lambda fit: float(self._loss(fit.logits(features), targets)))
            for head in self._heads:
                head.weight.data.copy_(best.weight)
                head.bias.data.copy_(best.bias)
            self.log("train/loss", best.loss, prog_bar=True)
            self.log("train/weight_decay", best.weight_decay)
        logits = self._heads[0](features)
        self._add("val", self.objective(logits, targets), len(targets))
        self.metrics["val"].update(logits, targets)  # type: ignore[operator]
        self._finish("val")

    def _clear_features(self) -> None:
        self._train, self._val = [], []

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.objective(logits, targets)["loss"]

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.net.features(images).float()


def _check(
    net: Backbone, objective: Objective, optimizer: Any, weight_decay: Sequence[float], settings: Mapping[str, Any]
) -> None:
    if optimizer is not None:
        raise ModelError("optimizer does nothing in a linear probe, because L-BFGS fits the classifier: leave it out")
    if settings.get("compile"):
        raise ModelError("classifier.compile=true does nothing in a linear probe: leave it out")
    if not weight_decay or not min(weight_decay) > 0:
        raise ModelError(f"classifier.weight_decay={list(weight_decay)} is invalid: give numbers above 0")
    if isinstance(objective, Distillation):
        raise ModelError("a linear probe learns from labels only: choose an objective without a teacher")
    if not all(isinstance(net.net.get_submodule(name), nn.Linear) for name in net.head_names):
        raise ModelError(f"model.name={net.name} has no linear classifier to fit: choose another network")


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear classifier.

    Attributes:
        weight: (C, D) float32.
        bias: (C,) float32.
        weight_decay: L2 penalty of the fit.
        loss: Loss on the features of the fit, without the penalty.
    """

    weight: Tensor
    bias: Tensor
    weight_decay: float
    loss: float

    def logits(self, features: Tensor) -> Tensor:
        """Return the (N, C) logits of features (N, D)."""
        return features @ self.weight.T + self.bias


def fit_linear(
    features: Tensor,
    targets: Tensor,
    classes: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    weight_decay: Sequence[float],
) -> list[LinearFit]:
    """Fit one linear classifier for each weight decay by L-BFGS (Liu and Nocedal 1989).

    The features are standardised, so that the same penalties suit all networks. The returned classifiers take the
    features without standardisation.

    Args:
        features: (N, D) float32.
        targets: (N,) int64, or (N, C) float probabilities.
        classes: Number of classes C.
        loss: Function of logits (N, C) and targets; its result is a scalar.
        weight_decay: Weights of the L2 penalty, half the sum of the squared classifier weights.

    Returns:
        One classifier for each weight decay, largest first.
    """
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    standardised = (features - mean) / std
    weight = features.new_zeros(classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(classes, requires_grad=True)
    fits = []
    for decay in sorted(weight_decay, reverse=True):  # each fit starts from the previous one
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

        def closure(optimizer: torch.optim.LBFGS = optimizer, decay: float = decay) -> Tensor:
            optimizer.zero_grad()
            total = loss(F.linear(standardised, weight, bias), targets) + decay / 2 * weight.square().sum()
            total.backward()
            return total

        optimizer.step(closure)
        with torch.no_grad():
            final_loss = float(loss(F.linear(standardised, weight, bias), targets))
            fits.append(LinearFit(weight / std, bias - weight / std @ mean, decay, final_loss))
    return fits
