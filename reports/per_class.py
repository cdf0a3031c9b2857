"""Scores of each class: confusion matrix, precision, recall and F1, and the precision-recall curve."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class ClassScores(NamedTuple):
    """Scores of one class.

    Attributes:
        name: Class name.
        precision: Share of the predictions of this class that are right; 0 without a prediction.
        recall: Share of the images of this class that are found; 0 without an image.
        f1: Harmonic mean of precision and recall; 0 without an image and a prediction.
        support: Number of images of this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def confusion_counts(targets: np.ndarray, predictions: np.ndarray, count: int) -> np.ndarray:
    """Return the confusion matrix, (count, count) int64; row = label, column = prediction.

    Args:
        targets: (N,) int, true classes.
        predictions: (N,) int, predicted classes.
        count: Number of classes.

    Example:
        >>> confusion_counts(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    matrix = np.zeros((count, count), dtype=np.int64)
    np.add.at(matrix, (targets, predictions), 1)
    return matrix


def per_class(confusion: np.ndarray, classes: Sequence[str]) -> list[ClassScores]:
    """Compute precision, recall, F1 and support of each class.

    Args:
        confusion: (C, C) int, row = label, column = prediction.
        classes: (C,) names.
    """
    hits, labelled, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return [
        ClassScores(
            name,
            float(hits[i] / max(predicted[i], 1)),
            float(hits[i] / max(labelled[i], 1)),
            float(2 * hits[i] / max(labelled[i] + predicted[i], 1)),
            int(labelled[i]),
        )
        for i, name in enumerate(classes)
    ]


def precision_recall(scores: np.ndarray, positive: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute a precision-recall curve of at most `points` points.

    Args:
        scores: (N,) float, higher means more positive; N at least 1.
        positive: (N,) bool.
        points: Largest number of points, at least 2.

    Returns:
        Recall and precision, (P,) float each, in order of increasing recall. There is one point per distinct score, as
        in scikit-learn, but without scikit-learn's point at recall 0.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores share one threshold
    recall, precision = hits[last] / max(int(positive.sum()), 1), hits[last] / (last + 1)
    chosen = np.unique(np.linspace(0, len(last) - 1, points).round().astype(int))
    return recall[chosen], precision[chosen]
