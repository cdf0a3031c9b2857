"""Reject uncertain predictions: a confidence threshold for a target accuracy on new images.

Pure numpy functions. The threshold is chosen on validation images by a lower bound of the accuracy, not by the accuracy
itself, because some of many thresholds reach the target by chance. `benchmarks/thresholds.py` measures how often the
target is reached on other images.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from reports.calibration import risk_coverage


class Threshold(NamedTuple):
    """A rejection threshold.

    Attributes:
        value: Predictions of lower confidence are rejected; None if no threshold reaches the target.
        target: Accuracy in [0, 1] of the predictions that are kept.
        note: Reason why there is no threshold, in one line; None if there is a threshold.
    """

    value: float | None
    target: float
    note: str | None = None

    def asdict(self) -> dict[str, Any]:
        """Return the keys of metrics.json and of the metadata of an exported file."""
        return {"threshold": self.value, "threshold_target": self.target, "threshold_note": self.note}


def choose_threshold(
    probabilities: np.ndarray, targets: np.ndarray, target: float = 0.95, confidence: float = 0.975
) -> Threshold:
    """Choose the threshold that keeps most predictions, among those whose lower accuracy bound is at least `target`.

    The bound is the one-sided bound of Clopper and Pearson (1934) for the accuracy of the kept predictions.

    Args:
        probabilities: (N, C) float in [0, 1], of images that are used neither for training nor for reported results.
        targets: (N,) int, true classes.
        target: Accuracy in [0, 1].
        confidence: Confidence of the bound, in (0, 1).

    Returns:
        The threshold, or the reason why there is none.

    Raises:
        ValueError: Shapes differ, or a value is outside its range.

    Example:
        >>> sure, unsure = np.tile([0.9, 0.1], (200, 1)), np.tile([0.6, 0.4], (200, 1))
        >>> choose_threshold(np.concatenate([sure, unsure]), np.repeat([0, 1], 200)).value
        0.9
    """
    for key, value in (("target", target), ("confidence", confidence)):
        if not 0 <= value <= 1:
            raise ValueError(f"{key}={value} is invalid: expected a number between 0 and 1")
    least, total = least_images(target, confidence), len(targets)
    if total < least:
        return Threshold(None, target, f"{total} validation images are too few, at least {least} are needed")
    coverage, accuracy, threshold = risk_coverage(probabilities.max(1), probabilities.argmax(1) == targets)
    kept = np.rint(coverage * total).astype(int)
    right = np.rint(accuracy * kept).astype(int)
    log_factorials = _log_factorials(total)
    for place in np.flatnonzero((accuracy >= target) & (kept >= least))[::-1]:
        # The bound is at least `target` if, at an accuracy of `target`, at most this number of errors has a probability
        # of at most 1 - confidence.
        if _at_most(kept[place] - right[place], kept[place], 1 - target, log_factorials) <= 1 - confidence:
            return Threshold(float(threshold[place]), target)
    return Threshold(
        None, target, f"no threshold has a lower accuracy bound of {target:.0%} on {total} validation images"
    )


def least_images(target: float, confidence: float) -> int:
    """Return the smallest number of predictions whose lower bound reaches `target` if all of them are right.

    Args:
        target: Accuracy in [0, 1].
        confidence: Confidence of the bound, in (0, 1).

    >>> least_images(0.95, 0.975)
    72
    """
    if target <= 0 or confidence <= 0:
        return 1
    return int(min(math.ceil(math.log(max(1 - confidence, 1e-12)) / math.log(min(target, 1 - 1e-12))), 1 << 53))


def accuracy_interval(right: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of an accuracy (Clopper and Pearson, 1934); (nan, nan) without an image.

    >>> [round(end, 3) for end in accuracy_interval(95, 100)]
    [0.887, 0.984]
    """
    if not total:
        return math.nan, math.nan
    log_factorials, tail = _log_factorials(total), (1 - level) / 2
    # Both ends solve P(at most k of n) = tail. k counts wrong predictions for the lower end, right ones for the upper.
    low = 0.0 if right == 0 else 1 - _solve_share(total - right, total, tail, log_factorials)
    return low, _solve_share(right, total, tail, log_factorials)


def evaluate_threshold(probabilities: np.ndarray, targets: np.ndarray, threshold: float | None) -> dict[str, float]:
    """Evaluate a threshold on images that were not used to choose it.

    Args:
        probabilities: (N, C) float in [0, 1].
        targets: (N,) int, true classes.
        threshold: Predictions of lower confidence are rejected; None gives an empty result.

    Returns:
        `coverage`, the share of images that are kept, in [0, 1]; `kept_accuracy`, the accuracy of their predictions, in
        [0, 1], and its 95 % interval `kept_accuracy_low`, `kept_accuracy_high` (NaN if no image is kept).
    """
    if threshold is None:
        return {}
    kept = probabilities.max(1) >= threshold
    right = int((probabilities.argmax(1) == targets)[kept].sum())
    low, high = accuracy_interval(right, int(kept.sum()))
    return {
        "coverage": float(kept.mean()),
        "kept_accuracy": right / int(kept.sum()) if kept.any() else math.nan,
        "kept_accuracy_low": low,
        "kept_accuracy_high": high,
    }


def stored_threshold(card: Mapping[str, Any]) -> Threshold | None:
    """Return the threshold in the metadata of an exported file; None if it stores none."""
    exported = card.get("exported", {})
    if exported.get("threshold") is None:
        return None
    return Threshold(float(exported["threshold"]), float(exported["threshold_target"]))


def _log_factorials(most: int) -> np.ndarray:
    """Return the logarithms of 0!, 1!, ..., most!, (most + 1,) float."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])


def _at_most(count: int, total: int, share: float, log_factorials: np.ndarray) -> float:
    """Return the binomial probability of at most `count` hits in `total` draws with hit probability `share`."""
    if share <= 0 or count >= total:
        return 1.0
    if share >= 1:
        return 0.0
    hits = np.arange(count + 1)
    terms = (
        log_factorials[total]
        - log_factorials[hits]
        - log_factorials[total - hits]
        + hits * math.log(share)
        + (total - hits) * math.log1p(-share)
    )
    return float(min(1.0, np.exp(terms).sum()))


def _solve_share(count: int, total: int, tail: float, log_factorials: np.ndarray) -> float:
    """Return the hit probability at which at most `count` hits in `total` draws have the probability `tail`."""
    if count >= total:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(count, total, middle, log_factorials) > tail else (low, middle)
    return (low + high) / 2
