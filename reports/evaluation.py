"""Files of one evaluation: metrics.json, predictions.csv, a confusion matrix and a reliability diagram."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from litesort.io import write_csv, write_json
from reports.calibration import coverage_at_accuracy
from reports.figures import confusion_matrix, reliability_diagram
from reports.per_class import confusion_counts


def predictions(
    files: Sequence[str], targets: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per image: file, label, prediction, and `p_<class>`, the probability of each class.

    Args:
        files: (N,) names of the images.
        targets: (N,) int, positions in `classes`.
        probabilities: (N, C) float in [0, 1].
        classes: (C,) names.
    """
    return [
        {"file": file, "label": classes[target], "prediction": classes[row.argmax()]}
        | {f"p_{name}": round(float(value), 6) for name, value in zip(classes, row, strict=True)}
        for file, target, row in zip(files, targets, probabilities, strict=True)
    ]


def coverage(targets: np.ndarray, probabilities: np.ndarray, accuracy: float) -> dict[str, float]:
    """Largest share of images that can be kept, most confident first, at an accuracy of at least `accuracy`.

    Returns:
        `coverage` in [0, 1], `coverage_threshold` (reject predictions of lower confidence) and `coverage_accuracy`.
    """
    share, threshold = coverage_at_accuracy(probabilities.max(1), probabilities.argmax(1) == targets, accuracy)
    return {"coverage": share, "coverage_threshold": threshold, "coverage_accuracy": accuracy}


def write_evaluation(
    folder: Path,
    metrics: dict[str, Any],
    files: Sequence[str],
    targets: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
) -> list[Path]:
    """Write the four files into `folder`. Returns their paths, then those of files that training left there.

    Arguments as in `predictions`.
    """
    rows = predictions(files, targets, probabilities, classes)
    columns = ["file", "label", "prediction", *(f"p_{name}" for name in classes)]
    predicted = probabilities.argmax(1)
    counts = confusion_counts(targets, predicted, len(classes))
    trained = [path for name in ("last.ckpt", "history.csv", "config.yaml") if (path := folder / name).is_file()]
    others = [
        write_csv(folder / "predictions.csv", rows, columns),
        confusion_matrix(counts, classes, folder / "confusion.png", title=str(metrics.get("name", ""))),
        reliability_diagram(probabilities.max(1), predicted == targets, folder / "reliability.png"),
    ]
    # metrics.json comes last: a run with this file is complete.
    return [write_json(folder / "metrics.json", metrics), *others, *trained]
