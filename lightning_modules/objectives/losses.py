"""Classification losses as pure functions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_targets(targets: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Convert labels to probabilities with label smoothing (Szegedy et al. 2016).

    Args:
        targets: (B,) int64 labels, or (B, C) float probabilities (mixup, cutmix).
        num_classes: Number of classes C.
        smoothing: Probability spread evenly over all classes, in [0, 1).

    Returns:
        (B, C) float32: (1 - smoothing) * q + smoothing / C.

    >>> soft_targets(torch.tensor([1]), num_classes=2, smoothing=0.2)
    tensor([[0.1000, 0.9000]])
    """
    hard = targets.ndim == 1
    probabilities = F.one_hot(targets, num_classes).float() if hard else targets.float()
    return torch.lerp(probabilities, torch.full_like(probabilities, 1 / num_classes), smoothing)


def cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Compute the cross-entropy with soft targets: mean over the batch of -sum_c w_c q_c log p_c.

    The mean divides by B. `F.cross_entropy(weight=...)` divides by the sum of the weights in the batch instead. With
    class weights that average 1 over the data set, dividing by B gives every batch the same weight.

    Args:
        logits: (B, C) float, unnormalised.
        targets: (B, C) float, probabilities.
        class_weights: (C,) float; None for equal weights.

    Returns:
        Scalar loss.
    """
    terms = targets * F.log_softmax(logits, dim=1)
    if class_weights is not None:
        terms = terms * class_weights
    return -terms.sum(dim=1).mean()


def focal(logits: Tensor, targets: Tensor, gamma: float, class_weights: Tensor | None = None) -> Tensor:
    """Compute the focal loss (Lin et al. 2017): mean over the batch of -sum_c w_c q_c (1 - p_c)^gamma log p_c.

    Args:
        logits: (B, C) float, unnormalised.
        targets: (B, C) float, probabilities.
        gamma: Focusing parameter, 0 or more; 0 is cross-entropy.
        class_weights: (C,) float; None for equal weights.

    Returns:
        Scalar loss.
    """
    log_p = F.log_softmax(logits, dim=1)
    # -expm1(log p) is 1 - p without cancellation near p = 1. The clamp keeps the gradient finite for gamma < 1.
    one_minus_p = (-torch.expm1(log_p)).clamp_min(1e-8)
    terms = targets * one_minus_p.pow(gamma) * log_p
    if class_weights is not None:
        terms = terms * class_weights
    return -terms.sum(dim=1).mean()


def adjust_logits(logits: Tensor, log_prior: Tensor, tau: float) -> Tensor:
    """Add tau * log prior to the logits in the training loss (Menon et al. 2021, eq. 10).

    Rare classes then need a larger margin. The loss is consistent for the balanced error.

    Args:
        logits: (B, C) float, unnormalised.
        log_prior: (C,) float, log of the class frequencies.
        tau: Strength of the adjustment, above 0.

    Returns:
        (B, C) float, adjusted logits.
    """
    return logits + tau * log_prior


def class_weights(counts: Sequence[int], power: float) -> Tensor:
    """Compute class weights proportional to count^-power, with mean 1 over the images.

    The mean of 1 keeps the scale of the loss, so the learning rate need not change.

    Args:
        counts: Images per class, all above 0.
        power: Exponent in [0, 1]; 0 gives equal weights to images, 1 gives equal weights to classes.

    Returns:
        (C,) float32.

    >>> class_weights([30, 10], power=1.0)
    tensor([0.6667, 2.0000])
    """
    n = torch.tensor(counts, dtype=torch.float64)
    raw = n.pow(-power)
    return (raw * n.sum() / (raw * n).sum()).float()
