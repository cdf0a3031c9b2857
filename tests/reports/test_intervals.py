"""Bootstrap intervals of macro F1."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from reports.intervals import f1_interval, f1_loss_interval


@pytest.fixture(scope="module")
def predictions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets of 300 images and two sets of predictions, (300,) int each; the second set is slightly worse."""
    random = np.random.default_rng(0)
    targets = random.choice(3, 300, p=[0.6, 0.3, 0.1])
    before = np.where(random.random(300) < 0.85, targets, random.integers(0, 3, 300))
    after = np.where(random.random(300) < 0.95, before, random.integers(0, 3, 300))
    return targets, before, after


def test_intervals_equal_a_bootstrap_over_images(predictions):
    targets, before, after = predictions
    random = np.random.default_rng(1)
    values = []
    for _ in range(150):
        rows = random.integers(0, 300, 300)
        values.append([f1_score(targets[rows], one[rows], average="macro") for one in (before, after)])
    first, second = np.array(values).T
    assert f1_interval(targets, before, 3) == pytest.approx(np.quantile(first, [0.025, 0.975]), abs=0.03)
    assert f1_loss_interval(targets, before, after, 3) == pytest.approx(
        np.quantile(first - second, [0.025, 0.975]), abs=0.015
    )


def test_loss_interval_is_paired(predictions):
    targets, before, after = predictions
    low, high = f1_loss_interval(targets, before, after, 3)
    assert high - low < np.ptp(f1_interval(targets, before, 3))
    assert f1_loss_interval(targets, before, before, 3) == (0, 0)


def test_class_without_images_is_left_out():
    targets, predicted = np.array([0, 0, 1, 1] * 10), np.array([0, 2, 1, 1] * 10)
    low, high = f1_interval(targets, predicted, 3)
    assert low < f1_score(targets, predicted, average="macro", labels=[0, 1]) < high
    assert f1_interval(targets, targets, 5) == (1, 1)
