"""How far a net's confidence can be believed, and what may be kept of its answers; pure numpy."""

from typing import NamedTuple

import numpy as np


class Reliability(NamedTuple):
    """Confidence bins: edges (bins + 1,), counts (bins,), mean confidence and accuracy (bins,), NaN where empty."""

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Reliability:
    """Sort (N,) confidences and hits into equal bins."""
    raise NotImplementedError


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]."""
    raise NotImplementedError


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage, accuracy and threshold at every distinct confidence."""
    raise NotImplementedError


def coverage_at_accuracy(confidence: np.ndarray, correct: np.ndarray, target: float) -> tuple[float, float]:
    """(coverage, threshold): the largest share kept at that accuracy."""
    raise NotImplementedError
