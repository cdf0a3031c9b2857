"""Losses as pure functions: formulas with shapes, no state."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_targets(targets: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Turn labels into probabilities and spread `smoothing` of them evenly (Szegedy et al. 2016).

    targets: (B,) int64 labels, or (B, C) float probabilities (mixup); smoothing in [0, 1).
    Returns (B, C) float32: (1 - smoothing) * q + smoothing / C.

    >>> soft_targets(torch.tensor([1]), num_classes=2, smoothing=0.2)
    tensor([[0.1000, 0.9000]])
    """
    hard = targets.ndim == 1
    probabilities = F.one_hot(targets, num_classes).float() if hard else targets.float()
    return torch.lerp(probabilities, torch.full_like(probabilities, 1 / num_classes), smoothing)


def cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy against probabilities: mean over the batch of -sum_c w_c q_c log p_c.

    logits: (B, C) float, unnormalised; targets: (B, C) float probabilities; class_weights: (C,) float.
    The mean divides by B, not by the batch's weights as `F.cross_entropy(weight=...)` does: with weights that average 1
    over the data set, every batch then counts alike. Returns a scalar.
    """
    terms = targets * F.log_softmax(logits, dim=1)
    if class_weights is not None:
        terms = terms * class_weights
    return -terms.sum(dim=1).mean()


def focal(logits: Tensor, targets: Tensor, gamma: float, class_weights: Tensor | None = None) -> Tensor:
    """Focal loss (Lin et al. 2017) for probabilities: mean over the batch of -sum_c w_c q_c (1 - p_c)^gamma log p_c.

    logits: (B, C) float, unnormalised; targets: (B, C) float probabilities; gamma >= 0, 0 is cross-entropy.
    Returns a scalar.
    """
    log_p = F.log_softmax(logits, dim=1)
    # 1 - p as -expm1(log p): exact near p = 1, and clamped since the gradient of 0^gamma is infinite for gamma < 1
    missing = (-torch.expm1(log_p)).clamp_min(1e-8)
    terms = targets * missing.pow(gamma) * log_p
    if class_weights is not None:
        terms = terms * class_weights
    return -terms.sum(dim=1).mean()


def adjust_logits(logits: Tensor, log_prior: Tensor, tau: float) -> Tensor:
    """Add tau * log prior to the logits while training (Menon et al. 2021, eq. 10), so that rare classes need a margin.

    logits: (B, C) float; log_prior: (C,) float, log of the class frequencies; tau > 0. Returns (B, C).
    """
    return logits + tau * log_prior


def class_weights(counts: Sequence[int], power: float) -> Tensor:
    """Weights proportional to count^-power, scaled to average 1 over the photos (the learning rate keeps its meaning).

    counts: photos a class, all > 0; power in [0, 1]: 0 is no weighting, 1 makes every class count alike.
    Returns (C,) float32.

    >>> class_weights([30, 10], power=1.0)
    tensor([0.6667, 2.0000])
    """
    n = torch.tensor(counts, dtype=torch.float64)
    raw = n.pow(-power)
    return (raw * n.sum() / (raw * n).sum()).float()
