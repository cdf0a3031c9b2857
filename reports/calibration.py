"""Calibration of confidences: reliability, expected calibration error, temperature scaling, risk and coverage.

Pure numpy functions. A test checks that `calibration_error` equals the metric that training logs (torchmetrics).
"""

import math
from typing import NamedTuple

import numpy as np


class Reliability(NamedTuple):
    """Predictions sorted into confidence bins of equal width.

    Attributes:
        edges: (bins + 1,) float, from 0 to 1.
        counts: (bins,) int.
        confidence: (bins,) float, mean confidence; NaN where the bin is empty.
        accuracy: (bins,) float, share of right predictions; NaN where the bin is empty.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Reliability:
    """Sort predictions into `bins` bins [a, b) of equal width; the last bin includes 1.

    Args:
        confidence: (N,) float in [0, 1], probability of the predicted class.
        correct: (N,) bool.
        bins: Number of bins, above 0.

    Raises:
        ValueError: Shapes differ, a confidence is outside [0, 1], or `bins` is not above 0.
    """
    confidence, correct = _checked(confidence, correct)
    if bins < 1:
        raise ValueError(f"bins={bins} is invalid: expected an integer of at least 1")
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    full = np.where(counts > 0, counts, np.nan)
    return Reliability(
        edges,
        counts,
        np.bincount(index, weights=confidence, minlength=bins) / full,
        np.bincount(index, weights=correct, minlength=bins) / full,
    )


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Compute the expected calibration error (Guo et al. 2017), in [0, 1].

    It is the mean of |accuracy - confidence| over bins, weighted by their counts; NaN without predictions. Arguments
    and errors are those of `reliability`.

    Example:
        >>> round(calibration_error(np.array([0.9, 0.9]), np.array([True, False])), 3)
        0.4
    """
    binned = reliability(confidence, correct, bins)
    if not binned.counts.any():
        return math.nan
    gaps = np.abs(binned.accuracy - binned.confidence)
    return float(np.nansum(gaps * binned.counts) / binned.counts.sum())


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute coverage and accuracy of the kept predictions for each distinct confidence threshold.

    Predictions of equal confidence are kept or rejected together, so D distinct confidences give D points.

    Args:
        confidence: (N,) float in [0, 1].
        correct: (N,) bool.

    Returns:
        Three arrays. coverage: (D,) float, increasing to 1. accuracy: (D,) float, of the kept predictions; the risk is
        1 - accuracy. threshold: (D,) float, decreasing; predictions of this or higher confidence are kept.

    Raises:
        ValueError: Shapes differ, or a confidence is outside [0, 1].
    """
    confidence, correct = _checked(confidence, correct)
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
    kept = last + 1
    return kept / max(len(ranked), 1), np.cumsum(correct[order])[last] / kept, ranked[last]


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits of probabilities by a temperature.

    Args:
        probabilities: (N, C) float in [0, 1].
        temperature: Divisor, above 0.

    Returns:
        (N, C) float64 probabilities.

    Example:
        >>> apply_temperature(np.array([[0.8, 0.2]]), 1.0)
        array([[0.8, 0.2]])
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-38)) / temperature
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Fit the temperature that minimises the negative log-likelihood of the true classes (Guo et al. 2017).

    It is above 1 for an overconfident network. A temperature does not change the predicted classes.

    Args:
        probabilities: (N, C) float in [0, 1], of images that were not trained on.
        targets: (N,) int, true classes.

    Returns:
        The temperature, in [0.1, 10].

    Raises:
        ValueError: There is no image, or shapes do not match.

    Example:
        >>> overconfident = np.array([[0.99, 0.01]] * 4)
        >>> fit_temperature(overconfident, np.array([0, 0, 0, 1])) > 1
        True
    """
    probabilities, targets = np.asarray(probabilities, np.float64), np.asarray(targets)
    if probabilities.ndim != 2 or probabilities.shape[:1] != targets.shape or not len(targets):
        raise ValueError(f"expected shapes (N, C) and (N,), N above 0, but got {probabilities.shape}, {targets.shape}")

    def loss(log_temperature: float) -> float:
        of_targets = apply_temperature(probabilities, math.exp(log_temperature))[np.arange(len(targets)), targets]
        return float(-np.log(np.maximum(of_targets, 1e-300)).mean())

    # The loss has one minimum in 1 / T, so a golden-section search finds it.
    low, high, golden = math.log(0.1), math.log(10), (math.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def calibration_change(probabilities: np.ndarray, targets: np.ndarray, temperature: float) -> dict[str, float]:
    """Measure the calibration error before and after temperature scaling.

    Args:
        probabilities: (N, C) float in [0, 1], before the scaling.
        targets: (N,) int, true classes.
        temperature: The temperature, fitted on other images.

    Returns:
        `temperature`, `ece_before` and `ece_after`.
    """

    def error(scaled: np.ndarray) -> float:
        return calibration_error(scaled.max(1), scaled.argmax(1) == targets)

    after = apply_temperature(probabilities, temperature)
    return {"temperature": temperature, "ece_before": error(probabilities), "ece_after": error(after)}


def _checked(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise ValueError(f"expected two arrays of shape (N,), but got {confidence.shape} and {correct.shape}")
    # A softmax in single precision may exceed 1 by a rounding error.
    if len(confidence) and not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-6):
        raise ValueError(f"expected confidences in [0, 1], but got {confidence.min():g} to {confidence.max():g}")
    return np.minimum(confidence, 1.0), correct
