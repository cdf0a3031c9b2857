"""What a network is trained towards: modules that turn outputs and targets into loss terms by name."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules import ModelError, losses
from lightning_modules.backbones import Backbone
from lightning_modules.teacher import no_teacher

Output = Tensor | tuple[Tensor, Tensor]


class Objective(nn.Module):
    """Turn a network's output into loss terms.

    A pair of outputs (a distilled DeiT in training, without a teacher) is two heads that learn the same labels: the
    mean of their losses. Subclasses give `loss` for one head, or override `forward` to add terms (a teacher's, say).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ModelError(f"objective.label_smoothing={label_smoothing} is out of range: give 0 (off) up to below 1")
        self.label_smoothing = label_smoothing

    def attach(self, net: Backbone, classes: Sequence[str]) -> None:
        """Get to know the network that learns, and the names of its classes; again, when it is pruned."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits: (B, C) float32; targets: (B, C) float32 probabilities, smoothed. Returns a scalar."""
        raise NotImplementedError

    def reset(self) -> None:
        """Begin an epoch of judging."""

    def compute(self) -> dict[str, Tensor]:
        """Further scalars of the epoch that was judged, by name, the same on all ranks."""
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
    0. A teacher, which all objectives are offered, is refused.
    """

    class_weights: Tensor | None
    log_prior: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weight_power: float = 0.0,
        tau: float = 0.0,
        class_counts: Sequence[int] | None = None,
        teacher: Any = None,
    ) -> None:
        no_teacher(teacher)
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
        teacher: Any = None,
    ) -> None:
        no_teacher(teacher)
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
        teacher: Any = None,
    ) -> None:
        if tau == 0:
            raise ModelError(f"objective.tau={tau} does nothing: give a positive number, or objective=cross_entropy")
        super().__init__(label_smoothing, tau=tau, class_counts=class_counts, teacher=teacher)


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
