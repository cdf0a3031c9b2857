"""Training objectives: modules that compute named loss terms from outputs and targets."""

import functools
import inspect
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.objectives import losses
from litesort.errors import ModelError

log = logging.getLogger(__name__)

Output = Tensor | tuple[Tensor, Tensor]


class Objective(nn.Module):
    """Base class: compute loss terms from the output of a network.

    Subclass it for your own loss. Override `loss`, or override `forward` to add terms. The contract:

    1. The constructor gets the keys of its yaml. If it has a parameter `class_counts`, it also gets the number of
       training images of each class per epoch: a list of C integers in the order of the classes. If the yaml has a key
       `teacher`, the constructor also gets the ensemble of `teacher.load_teacher`. Without that key, `teacher=` on the
       command line is an error.
    2. `attach(net, classes)` is called once the network exists, and again after each pruning step.
    3. `forward(output, targets, images)` is called in each step of training, validation and test.
    4. `reset()` is called when a validation or test epoch starts. `compute()` is called when it ends.

    The parameters of an objective are trained with the network at the full learning rate. They are not exported.

    A distilled DeiT without a teacher returns a pair of outputs in training. Both heads then learn the labels, and the
    loss is the mean of the two.

    Args:
        label_smoothing: Probability spread evenly over all classes, in [0, 1).

    Raises:
        ModelError: `label_smoothing` is out of range.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ModelError(f"objective.label_smoothing={label_smoothing} is invalid: expected 0 (off) up to below 1")
        self.label_smoothing = label_smoothing

    def attach(self, net: Backbone, classes: Sequence[str]) -> None:
        """Called once the network exists, and again after each pruning step. Override it to build layers."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of one batch.

        Args:
            logits: (B, C) float32, unnormalised.
            targets: (B, C) float32, probabilities after label smoothing.

        Returns:
            Scalar loss.
        """
        raise NotImplementedError

    def reset(self) -> None:
        """Discard the state of the last epoch. Called when a validation or test epoch starts."""

    def compute(self) -> dict[str, Tensor]:
        """Return further scalars of a validation or test epoch by name. They are equal on all ranks."""
        return {}

    def forward(self, output: Output, targets: Tensor, images: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the loss terms of one batch.

        Args:
            output: (B, C) float logits of any precision, or a pair of them.
            targets: (B,) int64 labels, or (B, C) float probabilities.
            images: (B, 3, H, W) float in [0, 1]; needed by objectives with a teacher.

        Returns:
            Scalars by name. The optimiser minimises "loss".
        """
        heads = output if isinstance(output, tuple) else (output,)
        smoothed = losses.soft_targets(targets, heads[0].shape[1], self.label_smoothing)
        total = torch.stack([self.loss(head.float(), smoothed) for head in heads]).mean()
        return {"loss": total}


class CrossEntropy(Objective):
    """Cross-entropy with label smoothing and, optionally, class weights or logit adjustment for rare classes.

    Args:
        label_smoothing: Probability spread evenly over all classes, in [0, 1).
        class_weight_power: Exponent of the class weights, in [0, 1]; 0 is off. See `losses.class_weights`.
        tau: Strength of the logit adjustment (Menon et al. 2021), 0 or more; 0 is off. It changes the loss only: the
            logits of the network then estimate balanced classes.
        class_counts: Training images of each class per epoch; needed if `class_weight_power` or `tau` is above 0.

    Raises:
        ModelError: A value is out of range or has no effect, or `class_counts` is missing.
    """

    class_weights: Tensor | None
    log_prior: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weight_power: float = 0.0,
        tau: float = 0.0,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__(label_smoothing)
        if class_weight_power and tau:
            raise ModelError(
                f"objective.class_weight_power={class_weight_power} and tau={tau} both favour rare classes: give one"
            )
        self.register_buffer("class_weights", _weights(class_weight_power, class_counts), persistent=False)
        self.register_buffer("log_prior", _log_prior(tau, class_counts), persistent=False)
        self.tau = tau

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.log_prior is not None:
            logits = losses.adjust_logits(logits, self.log_prior, self.tau)
        return losses.cross_entropy(logits, targets, self.class_weights)


class Focal(Objective):
    """Focal loss (Lin et al. 2017): the factor (1 - p)^gamma reduces the loss of well-classified images.

    Args:
        gamma: Focusing parameter, above 0.
        label_smoothing: As in CrossEntropy.
        class_weight_power: As in CrossEntropy.
        class_counts: As in CrossEntropy.

    Raises:
        ModelError: A value is out of range or has no effect, or `class_counts` is missing.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        label_smoothing: float = 0.0,
        class_weight_power: float = 0.0,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__(label_smoothing)
        if not gamma > 0:
            raise ModelError(
                f"objective.gamma={gamma} has no effect: give a positive number, or objective=cross_entropy"
            )
        self.gamma = gamma
        self.register_buffer("class_weights", _weights(class_weight_power, class_counts), persistent=False)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return losses.focal(logits, targets, self.gamma, self.class_weights)


class LogitAdjustment(CrossEntropy):
    """Cross-entropy with logit adjustment (Menon et al. 2021): rare classes get a larger margin.

    It equals plain cross-entropy if all classes are drawn equally often.

    Args:
        tau: Strength of the adjustment, above 0.
        label_smoothing: As in CrossEntropy.
        class_counts: Training images of each class per epoch.

    Raises:
        ModelError: `tau` is 0 or negative, or `class_counts` is missing.
    """

    def __init__(
        self,
        tau: float = 1.0,
        label_smoothing: float = 0.0,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        if tau == 0:
            raise ModelError(f"objective.tau={tau} has no effect: give a positive number, or objective=cross_entropy")
        super().__init__(label_smoothing, tau=tau, class_counts=class_counts)
        if class_counts and min(class_counts) == max(class_counts):
            log.info(
                "objective: every class is drawn %d times per epoch, so logit adjustment is plain cross-entropy",
                class_counts[0],
            )


def build_objective(factory: Callable[..., Objective], class_counts: Sequence[int]) -> Objective:
    """Build an objective, with `class_counts` if its constructor has a parameter of that name.

    Args:
        factory: Class, or partial of one. A parameter of a base class counts too, if `**kwargs` passes it on.
        class_counts: Training images of each class per epoch.

    Returns:
        The objective.
    """
    target = factory.func if isinstance(factory, functools.partial) else factory
    constructors = (
        [vars(base)["__init__"] for base in target.__mro__ if "__init__" in vars(base)]
        if isinstance(target, type)
        else [target]
    )
    for constructor in constructors:
        parameters = inspect.signature(constructor).parameters
        if "class_counts" in parameters:
            return factory(class_counts=class_counts)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return factory()


def _weights(power: float, counts: Sequence[int] | None) -> Tensor | None:
    if not 0 <= power <= 1:
        raise ModelError(
            f"objective.class_weight_power={power} is invalid: expected 0 (off) to 1 (equal class weights)"
        )
    if power == 0:
        return None
    return losses.class_weights(_checked_counts(f"objective.class_weight_power={power}", counts), power)


def _log_prior(tau: float, counts: Sequence[int] | None) -> Tensor | None:
    """Return the log of the class frequencies, (C,) float32. Empty classes count as one image, so the log is finite."""
    if not tau >= 0:
        raise ModelError(f"objective.tau={tau} is invalid: expected a positive number, or 0 (off)")
    if tau == 0:
        return None
    if counts is None:
        raise ModelError(f"objective.tau={tau} needs the training images per class: give class_counts")
    positive = torch.tensor(counts, dtype=torch.float64).clamp_min(1)
    return (positive / positive.sum()).log().float()


def _checked_counts(setting: str, counts: Sequence[int] | None) -> list[int]:
    """Check class counts. Equal counts are an error, because the setting would have no effect."""
    if counts is None:
        raise ModelError(f"{setting} needs the training images per class: give class_counts")
    if min(counts) < 1:
        empty = [i for i, count in enumerate(counts) if count < 1]
        raise ModelError(f"{setting} needs a training image of every class, but the classes at index {empty} have none")
    if min(counts) == max(counts):
        even = f"every class is drawn {counts[0]} times per epoch"
        raise ModelError(f"{setting} has no effect, because {even}: use sampler=shuffle, or objective=cross_entropy")
    return [int(count) for count in counts]
