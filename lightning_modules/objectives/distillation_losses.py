"""Knowledge distillation losses as pure functions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def kd_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the KD loss (Hinton et al. 2015): T^2 KL(teacher || student), mean over the batch.

    Both distributions are softmax(logits / T). The factor T^2 keeps the scale of the gradients independent of T.

    Args:
        student: (B, C) float, logits.
        teacher: (B, C) float, logits.
        temperature: Temperature T, above 0.

    Returns:
        Scalar loss, 0 if both distributions are equal.

    >>> kd_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[11.0, 12.0]])).abs() < 1e-6
    tensor(True)
    """
    log_p, log_q = F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def hard_kd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the cross-entropy with the predicted class of the teacher (Touvron et al. 2021, eq. 3).

    Args:
        student: (B, C) float, logits.
        teacher: (B, C) float, logits.

    Returns:
        Scalar loss, mean over the batch.
    """
    return F.cross_entropy(student, teacher.argmax(dim=1))


def dkd_losses(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Compute the two terms of decoupled knowledge distillation (DKD, Zhao et al. 2022).

    DKD splits the KL divergence of the KD loss into a term for the target class and a term for the other classes. If
    a target is a mixture of two classes (mixup, cutmix), each class is weighted by its share.

    Args:
        student: (B, C) float, logits.
        teacher: (B, C) float, logits.
        targets: (B,) int64 labels, or (B, C) float probabilities.
        temperature: Temperature T, above 0.

    Returns:
        Two scalars, scaled by T^2, means over the batch. TCKD is the KL divergence of the binary distribution (target
        class, all other classes). NCKD is the KL divergence over the other classes.
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
    """Compute the two terms of DIST (Huang et al. 2022): one minus the Pearson correlation of the probabilities.

    Args:
        student: (B, C) float, logits.
        teacher: (B, C) float, logits.
        temperature: Temperature T, above 0.

    Returns:
        Two scalars in [0, 2 T^2], scaled by T^2. The inter-class term correlates the classes of each image. The
        intra-class term correlates the images of each class.
    """
    p, q = (student / temperature).softmax(dim=1), (teacher / temperature).softmax(dim=1)
    inter, intra = 1 - correlation(p, q, dim=1).mean(), 1 - correlation(p, q, dim=0).mean()
    return temperature**2 * inter, temperature**2 * intra


def correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Compute the Pearson correlation of two float tensors of equal shape.

    Args:
        a: First tensor.
        b: Second tensor.
        dim: Dimension to correlate over. It is removed.

    Returns:
        Correlations in [-1, 1]; 0 where one input is constant.
    """
    a, b = a - a.mean(dim=dim, keepdim=True), b - b.mean(dim=dim, keepdim=True)
    return F.cosine_similarity(a, b, dim=dim)


def pkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the PKD loss (Cao et al. 2022): 2 - 2 r, the mean squared distance of standardised channels.

    r is the Pearson correlation of each channel over all images and positions. It ignores the mean and scale of the
    channels, which differ between networks. Channels with large values do not dominate the loss.

    Args:
        student: (B, C, H, W) float, feature map. It is resized to the height and width of the teacher's.
        teacher: (B, C, H, W) float, feature map with the same number of channels.

    Returns:
        Scalar loss in [0, 4].
    """
    student, teacher = (x.transpose(0, 1).flatten(1) for x in (_resize_to(student, teacher), teacher))
    return 2 - 2 * correlation(student, teacher, dim=1).mean()


def cosine_feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the cosine feature loss: mean of 2 - 2 cos of the channel vectors at each position.

    Args:
        student: (B, C, H, W) float, feature map, as in `pkd_loss`.
        teacher: (B, C, H, W) float, feature map.

    Returns:
        Scalar loss in [0, 4].
    """
    return (2 - 2 * F.cosine_similarity(_resize_to(student, teacher), teacher, dim=1)).mean()


def _resize_to(student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape[2:] == teacher.shape[2:]:
        return student
    return F.interpolate(student, teacher.shape[2:], mode="bilinear", align_corners=False)


def _one_against_all(logits: Tensor, is_target: Tensor) -> Tensor:
    """Return (B, 2) log-probabilities: target class, and sum of all other classes."""
    target = logits.masked_fill(~is_target, -torch.inf).logsumexp(dim=1)
    others = logits.masked_fill(is_target, -torch.inf).logsumexp(dim=1)
    return F.log_softmax(torch.stack([target, others], dim=1), dim=1)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return (B,) KL(q || p) of each row."""
    return (log_q.exp() * (log_q - log_p)).sum(dim=1)
