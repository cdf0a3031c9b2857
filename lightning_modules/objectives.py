"""What a network is trained towards: modules that turn outputs and targets into loss terms by name."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules import ModelError, losses

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

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits: (B, C) float32; targets: (B, C) float32 probabilities, smoothed. Returns a scalar."""
        raise NotImplementedError

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
    """Cross-entropy with label smoothing, and class weights where class_weight_power is above 0.

    label_smoothing in [0, 1); class_weight_power in [0, 1] (see `losses.class_weights`); class_counts: training
    photos a class, needed for a power above 0.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weight_power: float = 0.0,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__(label_smoothing)
        self.register_buffer("class_weights", _weights(class_weight_power, class_counts), persistent=False)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
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


class LogitAdjustment(Objective):
    """Cross-entropy on logits shifted by tau times the log of the class frequencies (Menon et al. 2021).

    The shift is part of the loss only: the network's own logits are then those of balanced classes.
    """

    log_prior: Tensor

    def __init__(
        self, tau: float = 1.0, label_smoothing: float = 0.0, class_counts: Sequence[int] | None = None
    ) -> None:
        super().__init__(label_smoothing)
        if not tau > 0:
            raise ModelError(f"objective.tau={tau} does nothing: give a positive number, or objective=cross_entropy")
        counts = torch.tensor(_usable_counts(f"objective.tau={tau}", class_counts), dtype=torch.float64)
        self.tau = tau
        self.register_buffer("log_prior", (counts / counts.sum()).log().float(), persistent=False)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return losses.cross_entropy(losses.adjust_logits(logits, self.log_prior, self.tau), targets)


def _weights(power: float, counts: Sequence[int] | None) -> Tensor | None:
    if not 0 <= power <= 1:
        raise ModelError(
            f"objective.class_weight_power={power} is out of range: give 0 (off) to 1 (classes count alike)"
        )
    if power == 0:
        return None
    return losses.class_weights(_usable_counts(f"objective.class_weight_power={power}", counts), power)


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
