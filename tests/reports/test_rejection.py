"""The rejection threshold: what it promises, on images that did not choose it."""

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import accuracy_score

from reports.rejection import accuracy_interval, choose_threshold, evaluate_threshold, least_images, stored_threshold

scipy_stats = pytest.importorskip("scipy.stats", reason="scikit-learn brings scipy")


def answers(random: np.random.Generator, count: int, accuracy=lambda confidence: confidence):
    """Probabilities (count, 2) and targets; a prediction is right with probability `accuracy(confidence)`."""
    confidence = 0.5 + random.beta(5, 1.5, count) / 2
    right = random.random(count) < accuracy(confidence)
    return np.stack([confidence, 1 - confidence], 1), np.where(right, 0, 1)


@given(st.integers(1, 300), st.data())
@settings(max_examples=30)
def test_the_interval_is_that_of_clopper_and_pearson(total, data):
    right = data.draw(st.integers(0, total))
    expected = scipy_stats.binomtest(right, total).proportion_ci(0.95, "exact")
    assert accuracy_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_keeps_most_among_those_whose_bound_reaches_the_target(seed):
    probabilities, targets = answers(np.random.default_rng(seed), 300)
    found = choose_threshold(probabilities, targets, 0.9, 0.95)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    good = [
        threshold
        for threshold in confidence
        if (kept := confidence >= threshold).any()
        and scipy_stats.binomtest(int(right[kept].sum()), int(kept.sum()), 0.9, "greater").pvalue <= 0.05
    ]
    assert found.value == (min(good) if good else None)


def test_the_promise_holds_on_new_images_and_the_accuracy_itself_does_not_hold_it():
    """On 200 pairs of 300 images each, from one population; too good an accuracy cannot hide in an empty threshold."""
    broken = naive = kept = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        probabilities, targets = answers(random, 300, lambda confidence: np.minimum(1, 1.05 * confidence))
        new, truth = answers(random, 300, lambda confidence: np.minimum(1, 1.05 * confidence))
        for level in (0.975, 0.5):
            evaluated = evaluate_threshold(new, truth, choose_threshold(probabilities, targets, 0.95, level).value)
            missed = bool(evaluated) and evaluated["kept_accuracy"] < 0.95
            kept += level == 0.975 and evaluated.get("coverage", 0) > 0.2
            broken, naive = broken + (missed and level == 0.975), naive + (missed and level == 0.5)
    assert broken <= 20
    assert naive > 20
    assert kept > 100


def test_without_enough_images_there_is_no_threshold_and_the_reason_is_a_line():
    probabilities, targets = np.tile([0.9, 0.1], (71, 1)), np.zeros(71, int)
    none = choose_threshold(probabilities, targets)
    assert (none.value, none.note) == (None, "71 validation images are too few, at least 72 are needed")
    assert none.asdict() == {"threshold": None, "threshold_target": 0.95, "threshold_note": none.note}
    enough = choose_threshold(np.tile([0.9, 0.1], (72, 1)), np.zeros(72, int))
    assert enough.asdict() == {"threshold": 0.9, "threshold_target": 0.95, "threshold_note": None}
    wrong = choose_threshold(np.tile([0.9, 0.1], (300, 1)), np.ones(300, int))
    assert wrong.value is None
    assert "on 300 validation images" in wrong.note
    assert least_images(1.0, 0.9) > 1e9  # no number of right ones proves that none is wrong
    assert choose_threshold(probabilities, targets, 0.0, 0.9).value == 0.9


def test_a_threshold_is_judged_by_what_it_keeps():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    targets = np.array([0, 1, 1, 0])
    evaluated = evaluate_threshold(probabilities, targets, 0.7)
    kept = probabilities.max(1) >= 0.7
    assert evaluated["coverage"] == 0.75
    assert evaluated["kept_accuracy"] == accuracy_score(targets[kept], probabilities.argmax(1)[kept])
    assert evaluated["kept_accuracy_low"] < 2 / 3 < evaluated["kept_accuracy_high"]
    assert evaluate_threshold(probabilities, targets, None) == {}
    nothing = evaluate_threshold(probabilities, targets, 0.95)
    assert nothing["coverage"] == 0
    assert np.isnan(nothing["kept_accuracy"])


def test_values_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="target=95 is invalid"):
        choose_threshold(np.array([[1.0, 0.0]]), np.array([0]), target=95)


def test_a_file_without_a_threshold_has_none():
    assert stored_threshold({"classes": ["a", "b"]}) is None
    assert stored_threshold({"exported": {"threshold": None}}) is None
    assert stored_threshold({"exported": {"threshold": 0.8, "threshold_target": 0.9}}).value == 0.8


def test_the_benchmark_counts_promises_on_a_run(checkpoint):
    """On the 18 images of a tiny run, and on generated answers of a network that is right at every confidence."""
    path = Path(__file__).parents[2] / "benchmarks" / "thresholds.py"
    benchmark = runpy.run_path(str(path))
    console = Console(width=100, file=io.StringIO())
    benchmark["main"]([str(checkpoint), "--target", "0.5", "--resamples", "20"], console)
    lines = console.file.getvalue().splitlines()
    assert "20 halvings of 18 images" in lines[0]
    assert len([line for line in lines if line.startswith("│")]) == 7
    sure, targets = np.tile([0.9, 0.1], (200, 1)), np.zeros(200, int)
    assert benchmark["resample"](sure, targets, 0.95, 0.975, 10) == (1.0, 0.0, 1.0, 1.0)
    assert benchmark["resample"](sure, 1 - targets, 0.95, 0.975, 10)[:3] == (0.0, 0.0, 0.0)
    assert benchmark["resample"](*answers(np.random.default_rng(0), 300), 0.95, None, 50).missed > 0.2
