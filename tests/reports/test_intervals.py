"""Bootstrap intervals of macro F1."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from reports.intervals import f1_interval, f1_loss_interval


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of 300 images, and two sets of predictions, the second a little worse."""
    random = np.random.default_rng(0)
    targets = random.choice(3, 300, p=[0.6, 0.3, 0.1])
    before = np.where(random.random(300) < 0.85, targets, random.integers(0, 3, 300))
    after = np.where(random.random(300) < 0.95, before, random.integers(0, 3, 300))
    return targets, before, after


def test_intervals_are_those_of_a_bootstrap_over_images(answers):
    targets, before, after = answers
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


def test_the_loss_is_paired(answers):
    targets, before, after = answers
    low, high = f1_loss_interval(targets, before, after, 3)
    alone = np.ptp(f1_interval(targets, before, 3))
    assert high - low < alone
    assert f1_loss_interval(targets, before, before, 3) == (0, 0)


def test_a_class_without_images_has_no_f1():
    targets, predictions = np.array([0, 0, 1, 1] * 10), np.array([0, 2, 1, 1] * 10)
    low, high = f1_interval(targets, predictions, 3)
    assert low < f1_score(targets, predictions, average="macro", labels=[0, 1]) < high
    assert f1_interval(targets, targets, 5) == (1, 1)
