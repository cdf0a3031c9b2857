"""Distillation losses, compared with the formulas of the papers in NumPy."""

import numpy as np
import pytest
import torch

from lightning_modules.objectives import distillation_losses

STUDENT = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 2
TEACHER = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)) * 3
TARGETS = torch.tensor([0, 1, 2, 3, 4, 4, 1])


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def outputs(temperature):
    """Return the probabilities p of the student and q of the teacher, (7, 5) float64 each."""
    return tuple(softmax(z.double().numpy() / temperature) for z in (STUDENT, TEACHER))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_loss_equals_formula(temperature):
    p, q = outputs(temperature)
    expected = temperature**2 * (q * np.log(q / p)).sum(axis=1).mean()
    got = distillation_losses.kd_loss(STUDENT, TEACHER, temperature)
    np.testing.assert_allclose(got.item(), expected, rtol=1e-5)


def test_kd_loss_gradient_scale_is_independent_of_temperature():
    def gradient_norm(temperature):
        student = (STUDENT * 0.01).clone().requires_grad_()
        distillation_losses.kd_loss(student, TEACHER * 0.01, temperature).backward()
        return student.grad.norm().item()

    assert gradient_norm(8.0) == pytest.approx(gradient_norm(1.0), rel=0.05)


def test_hard_kd_loss_equals_cross_entropy_with_predictions():
    p, _ = outputs(1.0)
    predictions = TEACHER.numpy().argmax(axis=1)
    expected = -np.log(p[np.arange(7), predictions]).mean()
    np.testing.assert_allclose(distillation_losses.hard_kd_loss(STUDENT, TEACHER).item(), expected, rtol=1e-5)


def decoupled_by_loops(targets, temperature):
    """Return the TCKD and NCKD of each image, (7, 2), by equations 5 and 7 of the paper."""
    p, q = outputs(temperature)
    rows = []
    for i, t in enumerate(targets):
        target = sum(b * np.log(b / a) for a, b in ((p[i, t], q[i, t]), (1 - p[i, t], 1 - q[i, t])))
        a, b = (np.delete(x[i], t) / (1 - x[i, t]) for x in (p, q))
        rows.append((target, (b * np.log(b / a)).sum()))
    return temperature**2 * np.array(rows)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_losses_equal_formula(temperature):
    target, others = distillation_losses.dkd_losses(STUDENT, TEACHER, TARGETS, temperature)
    expected = decoupled_by_loops(TARGETS.tolist(), temperature).mean(axis=0)
    np.testing.assert_allclose([target.item(), others.item()], expected, rtol=1e-4)


def test_dkd_losses_sum_to_kl_divergence():
    """KL = TCKD + (1 - q_target) NCKD for one image, equation 6 of the paper."""
    _, q = outputs(1.0)
    parts = [
        distillation_losses.dkd_losses(STUDENT[i : i + 1], TEACHER[i : i + 1], TARGETS[i : i + 1]) for i in range(7)
    ]
    whole = [float(t + (1 - q[i, TARGETS[i]]) * o) for i, (t, o) in enumerate(parts)]
    expected = distillation_losses.kd_loss(STUDENT, TEACHER).item()
    np.testing.assert_allclose(np.mean(whole), expected, rtol=1e-4)


def test_dkd_losses_weight_both_classes_of_a_mixture():
    other = (TARGETS + 2) % 5
    mixed = (
        torch.zeros(7, 5).scatter_(1, TARGETS[:, None], 0.7).scatter_add_(1, other[:, None], torch.full((7, 1), 0.3))
    )
    got = [part.item() for part in distillation_losses.dkd_losses(STUDENT, TEACHER, mixed, 2.0)]
    expected = 0.7 * decoupled_by_loops(TARGETS.tolist(), 2.0) + 0.3 * decoupled_by_loops(other.tolist(), 2.0)
    np.testing.assert_allclose(got, expected.mean(axis=0), rtol=1e-4)
    hard = torch.nn.functional.one_hot(TARGETS, 5).float()
    torch.testing.assert_close(
        distillation_losses.dkd_losses(STUDENT, TEACHER, hard),
        distillation_losses.dkd_losses(STUDENT, TEACHER, TARGETS),
    )


def test_dkd_losses_are_finite_for_saturated_teacher():
    student = torch.zeros(2, 3, requires_grad=True)
    certain = torch.tensor([[80.0, -80.0, -80.0], [-80.0, 80.0, -80.0]])
    sum(distillation_losses.dkd_losses(student, certain, torch.tensor([0, 0]))).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_dist_loss_equals_pearson_correlation():
    p, q = outputs(2.0)
    inter = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    got = [part.item() for part in distillation_losses.dist_loss(STUDENT, TEACHER, 2.0)]
    np.testing.assert_allclose(got, [4 * inter, 4 * intra], rtol=1e-4)


def test_dist_loss_is_finite_for_one_image():
    student = STUDENT[:1].clone().requires_grad_()
    sum(distillation_losses.dist_loss(student, TEACHER[:1])).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss",
    [
        distillation_losses.kd_loss,
        lambda s, t: sum(distillation_losses.dkd_losses(s, t, TARGETS)),
        lambda s, t: sum(distillation_losses.dist_loss(s, t)),
        lambda s, t: distillation_losses.pkd_loss(s[:, :, None, None], t[:, :, None, None]),
        lambda s, t: distillation_losses.cosine_feature_loss(s[:, :, None, None], t[:, :, None, None]),
    ],
)
def test_losses_are_zero_for_equal_student_and_teacher(loss):
    assert loss(TEACHER, TEACHER.clone()).item() == pytest.approx(0, abs=1e-5)
    assert loss(STUDENT, TEACHER).item() > 0.1


def maps():
    return (torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(s)) for s in (0, 1))


def test_cosine_feature_loss_compares_each_position():
    student, teacher = maps()
    a, b = (x.double().numpy() for x in (student, teacher))
    a, b = (x / np.sqrt((x**2).sum(axis=1, keepdims=True)) for x in (a, b))
    got = distillation_losses.cosine_feature_loss(student, teacher)
    np.testing.assert_allclose(got.item(), ((a - b) ** 2).sum(axis=1).mean(), rtol=1e-5)
    torch.testing.assert_close(distillation_losses.cosine_feature_loss(5 * student, teacher), got)


def test_pkd_loss_ignores_channel_mean_and_scale():
    student, teacher = maps()
    a, b = (x.double().numpy() for x in (student, teacher))
    a, b = ((x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True) for x in (a, b))
    got = distillation_losses.pkd_loss(student, teacher)
    np.testing.assert_allclose(got.item(), ((a - b) ** 2).mean(), rtol=1e-5)
    scaled = student * torch.tensor([1.0, 2.0, 30.0, 0.1])[:, None, None] + 7
    torch.testing.assert_close(distillation_losses.pkd_loss(scaled, teacher), got, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", [distillation_losses.pkd_loss, distillation_losses.cosine_feature_loss])
def test_feature_losses_resize_student_maps(distance):
    _, teacher = maps()
    coarse = torch.nn.functional.interpolate(teacher, scale_factor=4, mode="nearest")
    assert distance(coarse, teacher).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("distance", [distillation_losses.pkd_loss, distillation_losses.cosine_feature_loss])
def test_feature_losses_are_finite_for_one_position(distance):
    student = torch.ones(1, 4, 1, 1, requires_grad=True)
    distance(student, torch.randn(1, 4, 1, 1)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
