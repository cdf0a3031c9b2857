"""What a network is trained towards: modules that turn outputs and targets into loss terms by name."""

import functools
import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.objectives import losses
from litesort.errors import ModelError

Output = Tensor | tuple[Tensor, Tensor]


class Objective(nn.Module):
    """Turn a network's output into loss terms.

    Subclass it for a loss of your own and override `loss`, or `forward` to add terms. What it gets, and when:

    1. The constructor gets the keys of its yaml. If it has a parameter `class_counts`, it also gets the training images
       of each class as an epoch draws them, a list of C integers in the order of the classes. If the yaml has a key
       `teacher`, it gets what that builds, see `teacher.load_teacher`; without that key `teacher=` on the command line
       is refused.
    2. `attach(net, classes)` is called once the network exists, and again after each pruning step.
    3. `forward(output, targets, images)` is called in each step of training, validation and test.
    4. `reset()` is called when a validation or test starts, `compute()` when it ends.

    Its parameters are trained with the network, at the full learning rate; the exported network has none of them.

    A pair of outputs (a distilled DeiT in training, without a teacher) is two heads that learn the same labels: the
    mean of their losses.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ModelError(f"objective.label_smoothing={label_smoothing} is out of range: give 0 (off) up to below 1")
        self.label_smoothing = label_smoothing

    def attach(self, net: Backbone, classes: Sequence[str]) -> None:
        """Called once the network exists, and again after each pruning step. Override it to size projections."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits: (B, C) float32; targets: (B, C) float32 probabilities, smoothed. Returns a scalar."""
        raise NotImplementedError

    def reset(self) -> None:
        """Called when a validation or test epoch starts."""

    def compute(self) -> dict[str, Tensor]:
        """Further scalars of a validation or test epoch, by name; the same on all ranks."""
        return {}

    def forward(self, output: Output, targets: Tensor, images: Tensor | None = None) -> dict[str, Tensor]:
        """Loss terms by name; "loss" is the one that is minimised.

        output: (B, C) float logits of any precision, or a pair of them; targets: (B,) int64 or (B, C) float
        probabilities; images: (B, 3, H, W) float in [0, 1], for objectives with a teacher. Returns scalars.
        """
        heads = output if isinstance(output, tuple) else (output,)
        smoothed = losses.soft_targets(targets, heads[0].shape[1], self.label_smoothing)
        total = torch.stack([self.loss(head.float(), smoothed) for head in heads]).mean()
        return {"loss": total}


class CrossEntropy(Objective):
    """Cross-entropy with label smoothing; rare classes weigh more, or get a margin, where that is asked for.

    label_smoothing in [0, 1); class_weight_power in [0, 1] (see `losses.class_weights`); tau >= 0 shifts the logits by
    tau times the log of the class frequencies (Menon et al. 2021), in the loss only: the network's own logits are then
    those of balanced classes; class_counts: training photos a class as they are drawn, needed for a power or tau above
    0.
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
                f"objective.class_weight_power={class_weight_power} and tau={tau} both push rare classes: set one to 0"
            )
        self.register_buffer("class_weights", _weights(class_weight_power, class_counts), persistent=False)
        self.register_buffer("log_prior", _log_prior(tau, class_counts), persistent=False)
        self.tau = tau

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.log_prior is not None:
            logits = losses.adjust_logits(logits, self.log_prior, self.tau)
        return losses.cross_entropy(logits, targets, self.class_weights)


class Focal(Objective):
    """Focal loss: photos that are already right count less, by (1 - p)^gamma; class weights as in CrossEntropy."""

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
                f"objective.gamma={gamma} does nothing: give a positive number, or objective=cross_entropy"
            )
        self.gamma = gamma
        self.register_buffer("class_weights", _weights(class_weight_power, class_counts), persistent=False)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return losses.focal(logits, targets, self.gamma, self.class_weights)


class LogitAdjustment(CrossEntropy):
    """Cross-entropy with a margin for rare classes: tau > 0, others as in CrossEntropy.

    Where classes are drawn alike it is plain cross-entropy.
    """

    def __init__(
        self,
        tau: float = 1.0,
        label_smoothing: float = 0.0,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        if tau == 0:
            raise ModelError(f"objective.tau={tau} does nothing: give a positive number, or objective=cross_entropy")
        super().__init__(label_smoothing, tau=tau, class_counts=class_counts)


def build_objective(make: Callable[..., Objective], class_counts: Sequence[int]) -> Objective:
    """Call the constructor of an objective, with `class_counts` if it has a parameter of that name.

    make: a class, or a partial of one; a parameter that it hands on to its base by `**kwargs` counts too.
    """
    target = make.func if isinstance(make, functools.partial) else make
    constructors = (
        [vars(base)["__init__"] for base in target.__mro__ if "__init__" in vars(base)]
        if isinstance(target, type)
        else [target]
    )
    for constructor in constructors:
        parameters = inspect.signature(constructor).parameters
        if "class_counts" in parameters:
            return make(class_counts=class_counts)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return make()


def _weights(power: float, counts: Sequence[int] | None) -> Tensor | None:
    if not 0 <= power <= 1:
        raise ModelError(
            f"objective.class_weight_power={power} is out of range: give 0 (off) to 1 (classes count alike)"
        )
    if power == 0:
        return None
    return losses.class_weights(_usable_counts(f"objective.class_weight_power={power}", counts), power)


def _log_prior(tau: float, counts: Sequence[int] | None) -> Tensor | None:
    """Log of the class frequencies, (C,) float32; a class without photos counts as one, for its log to be a number."""
    if not tau >= 0:
        raise ModelError(f"objective.tau={tau} is out of range: give a positive number, or 0 for no margins")
    if tau == 0:
        return None
    if counts is None:
        raise ModelError(f"objective.tau={tau} needs the training photos a class: give class_counts")
    known = torch.tensor(counts, dtype=torch.float64).clamp_min(1)
    return (known / known.sum()).log().float()


def _usable_counts(setting: str, counts: Sequence[int] | None) -> list[int]:
    """Class counts that make a difference; a setting that would do nothing is an error."""
    if counts is None:
        raise ModelError(f"{setting} needs the training photos a class: give class_counts")
    if min(counts) < 1:
        empty = [i for i, count in enumerate(counts) if count < 1]
        raise ModelError(f"{setting} needs a training photo of every class, but classes number {empty} have none")
    if min(counts) == max(counts):
        even = f"every class is seen {counts[0]} times an epoch"
        raise ModelError(f"{setting} does nothing, for {even}: use sampler=shuffle, or objective=cross_entropy")
    return [int(count) for count in counts]
