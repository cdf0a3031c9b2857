"""What one evaluation leaves behind: metrics.json, predictions.csv, a confusion matrix and a reliability diagram."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from litesort.io import write_csv, write_json
from reports.calibration import coverage_at_accuracy
from reports.figures import confusion_matrix, reliability_diagram


def predictions(
    files: Sequence[str], targets: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """One row a photo: file, label, prediction, and `p_<class>`, its probability of each class.

    Args:
        files: (N,) names of the photos.
        targets: (N,) int, positions in `classes`.
        probabilities: (N, C) float in [0, 1].
        classes: (C,) names.
    """
    return [
        {"file": file, "label": classes[target], "prediction": classes[answer.argmax()]}
        | {f"p_{name}": round(float(share), 6) for name, share in zip(classes, answer, strict=True)}
        for file, target, answer in zip(files, targets, probabilities, strict=True)
    ]


def coverage(targets: np.ndarray, probabilities: np.ndarray, accuracy: float) -> dict[str, float]:
    """Share of photos that may be kept, most confident first, so that `accuracy` of their labels are right.

    Returns:
        `coverage` in [0, 1], `coverage_threshold` (reject answers whose confidence is below) and `coverage_accuracy`.
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
    """Write the four files into `folder`; returns their paths, and those of what a training has left beside them.

    Arguments as in `predictions`.
    """
    rows = predictions(files, targets, probabilities, classes)
    columns = ["file", "label", "prediction", *(f"p_{name}" for name in classes)]
    answers = probabilities.argmax(1)
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (targets, answers), 1)
    trained = [path for name in ("last.ckpt", "history.csv", "config.yaml") if (path := folder / name).is_file()]
    others = [
        write_csv(folder / "predictions.csv", rows, columns),
        confusion_matrix(counts, classes, folder / "confusion.png", title=str(metrics.get("name", ""))),
        reliability_diagram(probabilities.max(1), answers == targets, folder / "reliability.png"),
    ]
    return [write_json(folder / "metrics.json", metrics), *others, *trained]  # last: it says that all is there
