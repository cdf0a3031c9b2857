"""Losses against a teacher's answers, as pure functions: formulas with shapes, no state."""

import torch
import torch.nn.functional as F
from torch import Tensor


def kd_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Hinton et al. 2015: T^2 KL(teacher || student) of probabilities softened by T, mean over the batch.

    student, teacher: (B, C) float logits; temperature T > 0: the factor T^2 keeps gradients the size that they have
    at T = 1. Returns a scalar, 0 where both agree.

    >>> kd_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[11.0, 12.0]])).abs() < 1e-6
    tensor(True)
    """
    log_p, log_q = F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def hard_kd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the teacher's first choice (Touvron et al. 2021, eq. 3), mean over the batch.

    student, teacher: (B, C) float logits. Returns a scalar.
    """
    return F.cross_entropy(student, teacher.argmax(dim=1))


def dkd_losses(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Decoupled distillation (Zhao et al. 2022): what KL mixes, apart.

    student, teacher: (B, C) float logits; targets: (B,) int64 labels, or (B, C) float probabilities; temperature T > 0.
    A mixture of two classes, as mixup and cutmix make, counts each of its classes by its share.

    Returns two scalars, both times T^2 and means over the batch: TCKD, the KL of (target, all others), and NCKD, the KL
    among the classes that are not the target.
    """
    s, t = student / temperature, teacher / temperature
    if targets.ndim == 1:
        shares, labels = torch.ones_like(targets, dtype=s.dtype)[:, None], targets[:, None]
    else:
        shares, labels = targets.to(s.dtype).topk(min(2, targets.shape[1]), dim=1)
        shares = shares / shares.sum(dim=1, keepdim=True)
    target_part, other_part = torch.zeros_like(s[:, 0]), torch.zeros_like(s[:, 0])
    for share, label in zip(shares.unbind(dim=1), labels.unbind(dim=1), strict=True):
        is_target = F.one_hot(label, s.shape[1]).bool()
        target_part = target_part + share * _divergence(_one_against_all(s, is_target), _one_against_all(t, is_target))
        others = [F.log_softmax(z.masked_fill(is_target, -1e4), dim=1) for z in (s, t)]
        other_part = other_part + share * _divergence(*others)
    return temperature**2 * target_part.mean(), temperature**2 * other_part.mean()


def dist_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """DIST (Huang et al. 2022): match how answers relate, by Pearson's correlation, not their values.

    student, teacher: (B, C) float logits; temperature T > 0. Returns two scalars in [0, 2], times T^2: one minus the
    correlation over the classes of a photo (inter), and over the photos of a class (intra).
    """
    p, q = (student / temperature).softmax(dim=1), (teacher / temperature).softmax(dim=1)
    inter, intra = 1 - correlation(p, q, dim=1).mean(), 1 - correlation(p, q, dim=0).mean()
    return temperature**2 * inter, temperature**2 * intra


def correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Pearson's correlation of two float tensors of one shape along a dimension, which goes; 0 for a constant."""
    a, b = a - a.mean(dim=dim, keepdim=True), b - b.mean(dim=dim, keepdim=True)
    return F.cosine_similarity(a, b, dim=dim)


def pkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """PKD (Cao et al. 2022): mean squared distance of features whose channels are standardised, 2 - 2 r.

    student, teacher: (B, C, H, W) float maps of one number of channels; the student's is resized to the teacher's
    height and width. r is Pearson's correlation of a channel over all photos and places: scales and means of channels
    say nothing across networks, and few strong channels do not drown the others. Returns a scalar in [0, 4].
    """
    student, teacher = (x.transpose(0, 1).flatten(1) for x in (_fitted(student, teacher), teacher))
    return 2 - 2 * correlation(student, teacher, dim=1).mean()


def cosine_feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of feature directions: 2 - 2 cos of the channel vectors at each position.

    student, teacher: (B, C, H, W) float maps, as for `pkd_loss`. Returns a scalar in [0, 4].
    """
    return (2 - 2 * F.cosine_similarity(_fitted(student, teacher), teacher, dim=1)).mean()


def _fitted(student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape[2:] == teacher.shape[2:]:
        return student
    return F.interpolate(student, teacher.shape[2:], mode="bilinear", align_corners=False)


def _one_against_all(logits: Tensor, is_target: Tensor) -> Tensor:
    """(B, 2) log-probabilities of the target, and of all other classes together."""
    target = logits.masked_fill(~is_target, -torch.inf).logsumexp(dim=1)
    others = logits.masked_fill(is_target, -torch.inf).logsumexp(dim=1)
    return F.log_softmax(torch.stack([target, others], dim=1), dim=1)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(q || p) a row, (B,)."""
    return (log_q.exp() * (log_q - log_p)).sum(dim=1)
