import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_modules.objectives import losses


@pytest.fixture
def logits():
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 3


TARGETS = torch.tensor([0, 1, 2, 3, 4, 4, 1])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.1, 3.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_equals_torch(logits, smoothing):
    soft = losses.soft_targets(TARGETS, 5, smoothing)
    torch.testing.assert_close(
        losses.cross_entropy(logits, soft), F.cross_entropy(logits, TARGETS, label_smoothing=smoothing)
    )
    torch.testing.assert_close(
        losses.cross_entropy(logits, soft, WEIGHTS),
        F.cross_entropy(logits, TARGETS, WEIGHTS, label_smoothing=smoothing, reduction="none").mean(),
    )


def test_cross_entropy_accepts_soft_targets(logits):
    soft = torch.softmax(torch.randn(7, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    smoothed = losses.soft_targets(soft, 5, 0.1)
    torch.testing.assert_close(
        losses.cross_entropy(logits, smoothed), F.cross_entropy(logits, soft, label_smoothing=0.1)
    )


def test_soft_targets_sum_to_one():
    mixed = losses.soft_targets(torch.tensor([[0.3, 0.7, 0.0]], dtype=torch.float16), 3, 0.3)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_equals_formula(logits, gamma):
    x = logits.double().numpy()
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    p_true = p[np.arange(7), TARGETS.numpy()]
    expected = (-WEIGHTS.numpy()[TARGETS] * (1 - p_true) ** gamma * np.log(p_true)).mean()
    got = losses.focal(logits, losses.soft_targets(TARGETS, 5), gamma, WEIGHTS)
    np.testing.assert_allclose(got.item(), expected, rtol=1e-5)


def test_focal_gamma_zero_equals_cross_entropy(logits):
    soft = losses.soft_targets(TARGETS, 5, 0.1)
    torch.testing.assert_close(losses.focal(logits, soft, 0.0), losses.cross_entropy(logits, soft))


def test_focal_gradient_is_finite_for_saturated_logits():
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0]], requires_grad=True)
    losses.focal(logits, losses.soft_targets(torch.tensor([0, 0]), 2), gamma=0.5).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_adjust_logits_equals_bayes_rule(logits):
    prior = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1])
    posterior = torch.softmax(losses.adjust_logits(logits, prior.log(), tau=1.0), dim=1)
    expected = torch.softmax(logits, dim=1) * prior  # Bayes: balanced scores times the prior, normalised
    torch.testing.assert_close(posterior, expected / expected.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_class_weights_have_mean_one_over_images(power):
    counts = np.array([1168, 4826, 1020, 2655, 4879, 1092])
    weights = losses.class_weights(counts.tolist(), power).numpy()
    np.testing.assert_allclose((weights * counts).sum() / counts.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(weights[1] / weights[0], (1168 / 4826) ** power, rtol=1e-5)


def test_class_weights_power_one_equals_sklearn_balanced():
    compute_class_weight = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    y = np.repeat([0, 1, 2], [5, 20, 75])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    np.testing.assert_allclose(losses.class_weights([5, 20, 75], 1.0).numpy(), expected, rtol=1e-6)
