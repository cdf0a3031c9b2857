"""The rejection threshold, evaluated on images that were not used to choose it."""

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats
from sklearn.metrics import accuracy_score

from reports.rejection import accuracy_interval, choose_threshold, evaluate_threshold, least_images, stored_threshold


def simulate(random: np.random.Generator, count: int, accuracy=lambda confidence: confidence):
    """Probabilities (count, 2) and targets; a prediction is correct with probability `accuracy(confidence)`."""
    confidence = 0.5 + random.beta(5, 1.5, count) / 2
    correct = random.random(count) < accuracy(confidence)
    return np.stack([confidence, 1 - confidence], 1), np.where(correct, 0, 1)


@given(st.integers(1, 300), st.data())
@settings(max_examples=30)
def test_accuracy_interval_equals_the_exact_interval_of_scipy(total, data):
    correct = data.draw(st.integers(0, total))
    expected = stats.binomtest(correct, total).proportion_ci(0.95, "exact")
    assert accuracy_interval(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_threshold_is_the_lowest_whose_bound_reaches_the_target(seed):
    probabilities, targets = simulate(np.random.default_rng(seed), 300)
    found = choose_threshold(probabilities, targets, 0.9, 0.95)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    suitable = [
        threshold
        for threshold in confidence
        if (kept := confidence >= threshold).any()
        and stats.binomtest(int(correct[kept].sum()), int(kept.sum()), 0.9, "greater").pvalue <= 0.05
    ]
    assert found.value == (min(suitable) if suitable else None)


def test_target_is_reached_on_new_images_at_high_confidence_only():
    """Thresholds are chosen on 300 images and evaluated on 300 others of one population, 200 times.

    At confidence 0.5 the bound is about the accuracy itself. Most thresholds must keep a fifth of the images, because a
    threshold that rejects all of them never misses the target.
    """
    missed, useful = dict.fromkeys((0.975, 0.5), 0), 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        chosen_on, new = (simulate(random, 300, lambda confidence: np.minimum(1, 1.05 * confidence)) for _ in range(2))
        for level in missed:
            found = evaluate_threshold(*new, choose_threshold(*chosen_on, 0.95, level).value)
            missed[level] += bool(found) and found["kept_accuracy"] < 0.95
            useful += level == 0.975 and found.get("coverage", 0) > 0.2
    assert missed[0.975] <= 20
    assert missed[0.5] > 20
    assert useful > 100


def test_too_few_images_give_no_threshold_and_a_reason():
    probabilities, targets = np.tile([0.9, 0.1], (71, 1)), np.zeros(71, int)
    none = choose_threshold(probabilities, targets)
    assert (none.value, none.note) == (None, "71 validation images are too few, at least 72 are needed")
    assert none.asdict() == {"threshold": None, "threshold_target": 0.95, "threshold_note": none.note}
    enough = choose_threshold(np.tile([0.9, 0.1], (72, 1)), np.zeros(72, int))
    assert enough.asdict() == {"threshold": 0.9, "threshold_target": 0.95, "threshold_note": None}
    wrong = choose_threshold(np.tile([0.9, 0.1], (300, 1)), np.ones(300, int))
    assert wrong.value is None
    assert "on 300 validation images" in wrong.note
    assert least_images(1.0, 0.9) > 1e9  # no number of correct predictions proves an accuracy of 1
    assert choose_threshold(probabilities, targets, 0.0, 0.9).value == 0.9


def test_evaluate_threshold_measures_the_kept_predictions():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    targets = np.array([0, 1, 1, 0])
    evaluated = evaluate_threshold(probabilities, targets, 0.7)
    kept = probabilities.max(1) >= 0.7
    assert evaluated["coverage"] == 0.75
    assert evaluated["kept_accuracy"] == accuracy_score(targets[kept], probabilities.argmax(1)[kept])
    assert evaluated["kept_accuracy_low"] < 2 / 3 < evaluated["kept_accuracy_high"]
    assert evaluate_threshold(probabilities, targets, None) == {}
    all_rejected = evaluate_threshold(probabilities, targets, 0.95)
    assert all_rejected["coverage"] == 0
    assert np.isnan(all_rejected["kept_accuracy"])


def test_values_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="target=95 is invalid"):
        choose_threshold(np.array([[1.0, 0.0]]), np.array([0]), target=95)


def test_stored_threshold_of_a_card():
    assert stored_threshold({"classes": ["a", "b"]}) is None
    assert stored_threshold({"exported": {"threshold": None}}) is None
    assert stored_threshold({"exported": {"threshold": 0.8, "threshold_target": 0.9}}).value == 0.8


def test_thresholds_benchmark_on_a_run_and_on_simulated_predictions(checkpoint):
    path = Path(__file__).parents[2] / "benchmarks" / "thresholds.py"
    benchmark = runpy.run_path(str(path))
    console = Console(width=100, file=io.StringIO())
    benchmark["main"]([str(checkpoint), "--target", "0.5", "--resamples", "20"], console)
    lines = console.file.getvalue().splitlines()  # the validation and test images of the run
    assert "20 halvings of 18 images" in lines[0]
    assert len([line for line in lines if line.startswith("│")]) == 7
    certain, targets = np.tile([0.9, 0.1], (200, 1)), np.zeros(200, int)
    assert benchmark["resample"](certain, targets, 0.95, 0.975, 10) == (1.0, 0.0, 1.0, 1.0)
    assert benchmark["resample"](certain, 1 - targets, 0.95, 0.975, 10)[:3] == (0.0, 0.0, 0.0)
    assert benchmark["resample"](*simulate(np.random.default_rng(0), 300), 0.95, None, 50).missed > 0.2
