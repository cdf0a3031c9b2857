"""Files of one evaluation: metrics.json, predictions.csv, a confusion matrix and a reliability diagram."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from litesort.io import write_csv, write_json
from reports.figures import confusion_matrix, reliability_diagram
from reports.per_class import confusion_counts
from reports.results import one_line


def predictions(
    files: Sequence[str], targets: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return one row per image: file, label, prediction, and `p_<class>`, the probability of each class.

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


def absent_classes(targets: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> str | None:
    """Return a line about classes that are predicted but have no image; None if there are none. Macro F1 omits them.

    Args:
        targets: (N,) int, true classes.
        predicted: (N,) int, predicted classes.
        classes: (C,) names.

    Example:
        >>> absent_classes(np.array([0, 0]), np.array([0, 1]), ["can", "cup"])
        'class cup has no image here and is predicted 1 times: macro F1 is the mean over the other classes'
    """
    counts = np.bincount(predicted, minlength=len(classes)) * (np.bincount(targets, minlength=len(classes)) == 0)
    if not counts.any():
        return None
    names = ", ".join(one_line(classes[label], 40) for label in np.flatnonzero(counts).tolist())
    return (
        f"class {names} has no image here and is predicted {counts.sum()} times: "
        "macro F1 is the mean over the other classes"
    )


def write_evaluation(
    folder: Path,
    metrics: dict[str, Any],
    files: Sequence[str],
    targets: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
) -> list[Path]:
    """Write the four files into `folder`.

    Args:
        folder: Run folder.
        metrics: Content of metrics.json, plain data.
        files: As in `predictions`.
        targets: As in `predictions`.
        probabilities: As in `predictions`.
        classes: As in `predictions`.

    Returns:
        Paths of these files, then of files that the training wrote into `folder`.
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
    # metrics.json is written last, so that a run with this file is complete.
    return [write_json(folder / "metrics.json", metrics), *others, *trained]
