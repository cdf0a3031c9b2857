import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from torchmetrics.functional.classification import binary_calibration_error

from lightning_modules.metrics import evaluate
from reports.calibration import (
    apply_temperature,
    calibration_change,
    calibration_error,
    fit_temperature,
    reliability,
    risk_coverage,
)

# A small set of values, so that ties are common.
CONFIDENCES = st.lists(st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.9, 1.0]), min_size=1, max_size=12)


@st.composite
def predictions(draw):
    """Confidences (N,) float and whether each prediction is correct (N,) bool."""
    confidence = np.array(draw(CONFIDENCES))
    return confidence, draw(arrays(bool, len(confidence)))


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_agrees_with_torchmetrics(bins):
    random = np.random.default_rng(0)
    confidence = random.beta(4, 1.5, 3000)
    correct = random.random(3000) < confidence**2
    # The binary form compares the probability of class 1 with the share of targets 1: here confidence and accuracy.
    expected = binary_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct).int(), n_bins=bins)
    assert calibration_error(confidence, correct, bins) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 6])
def test_ece_equals_the_logged_metric(classes):
    """`StageMetrics` (torchmetrics) and `calibration_error` (numpy) give the same value for the same predictions."""
    random = np.random.default_rng(classes)
    probabilities = random.dirichlet(np.full(classes, 0.4), 2000).astype(np.float32)
    targets = random.integers(0, classes, 2000)
    expected = evaluate(probabilities, targets, [str(i) for i in range(classes)])["ece"]
    found = calibration_error(probabilities.max(1), probabilities.argmax(1) == targets)
    assert found == pytest.approx(expected, abs=1e-5)


@given(predictions(), st.integers(1, 20))
def test_ece_agrees_with_its_definition(predicted, bins):
    confidence, correct = predicted
    edges = np.linspace(0, 1, bins + 1)
    expected = 0.0
    for low, high in pairwise(edges):
        inside = (confidence >= low) & ((confidence < high) | ((high == 1) & (confidence == 1)))
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration_error(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)


@given(predictions(), st.integers(1, 20))
def test_every_prediction_is_in_one_bin(predicted, bins):
    confidence, correct = predicted
    binned = reliability(confidence, correct, bins)
    full = binned.counts > 0
    assert binned.counts.sum() == len(confidence)
    assert np.isnan(binned.accuracy[~full]).all()
    assert (binned.accuracy[full] * binned.counts[full]).sum() == pytest.approx(correct.sum())
    assert (binned.confidence[full] >= binned.edges[:-1][full] - 1e-12).all()
    assert (binned.confidence[full] <= binned.edges[1:][full] + 1e-12).all()


@given(predictions())
def test_risk_coverage_ends_at_full_coverage(predicted):
    confidence, correct = predicted
    coverage, accuracy, threshold = risk_coverage(confidence, correct)
    assert len(coverage) == len(set(confidence))
    assert (np.diff(coverage) > 0).all()
    assert (np.diff(threshold) < 0).all()
    assert coverage[-1] == 1
    assert accuracy[-1] == pytest.approx(correct.mean())


def test_confidence_on_an_edge_belongs_to_the_upper_bin():
    assert reliability(np.array([0.0, 0.5, 1.0]), np.array([True, True, True]), bins=2).counts.tolist() == [1, 2]


def test_equal_confidences_are_kept_or_rejected_together():
    coverage, accuracy, threshold = risk_coverage(np.array([0.9, 0.7, 0.7, 0.7]), np.array([True, True, False, False]))
    assert (coverage.tolist(), accuracy.tolist(), threshold.tolist()) == ([0.25, 1.0], [1.0, 0.5], [0.9, 0.7])


def test_calibration_error_without_predictions_is_nan():
    assert math.isnan(calibration_error(np.array([]), np.array([], bool)))
    assert len(risk_coverage(np.array([]), np.array([], bool))[0]) == 0


def test_confidences_above_one_are_accepted_within_rounding_only():
    assert calibration_error(np.array([np.float32(1.0000001)]), np.array([True])) == 0
    with pytest.raises(ValueError, match="87 to 93"):
        calibration_error(np.array([93.0, 87.0]), np.array([True, True]))
    with pytest.raises(ValueError, match="nan"):
        calibration_error(np.array([np.nan]), np.array([True]))
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        reliability(np.array([0.1, 0.2]), np.array([True, True, False]))
    with pytest.raises(ValueError, match="bins=0"):
        reliability(np.array([0.1]), np.array([True]), bins=0)


def test_fitted_temperature_removes_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    calibrated = softmax(logits, axis=1)
    targets = np.array([rng.choice(3, p=row) for row in calibrated])
    overconfident = apply_temperature(calibrated, 1 / 2.5)
    temperature = fit_temperature(overconfident, targets)
    assert temperature == pytest.approx(2.5, rel=0.1)
    change = calibration_change(overconfident, targets, temperature)
    assert change["ece_after"] < 0.02 < change["ece_before"]
    assert change["temperature"] == temperature
    assert (apply_temperature(overconfident, temperature).argmax(1) == overconfident.argmax(1)).all()
    with pytest.raises(ValueError, match="expected shapes"):
        fit_temperature(overconfident[:0], targets[:0])


def test_tempered_divides_logits():
    logits = np.array([[3.0, 1.0, -2.0], [500.0, 0.0, 0.0]])
    probabilities = softmax(logits, axis=1)
    np.testing.assert_allclose(apply_temperature(probabilities[:1], 2.0), softmax(logits[:1] / 2, axis=1))
    assert np.isfinite(apply_temperature(probabilities, 0.1)).all()
