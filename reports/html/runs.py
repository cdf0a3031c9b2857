"""Details of one run on the HTML leaderboard: metrics, charts, wrong images and links to its files."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from litesort.io import plain
from reports.calibration import reliability, risk_coverage
from reports.html.charts import curve_chart, share_chart
from reports.html.row_texts import class_changes, details, tooltip
from reports.per_class import confusion_counts, precision_recall
from reports.ranking import labels
from reports.results import Row, failed, number, one_line, overrides, stage
from reports.run_folder import Predictions, read_config, read_curves, read_error, read_mistakes, read_predictions

BINS = 15  # of the reliability diagram
MAX_CLASSES = 30  # of a confusion matrix; with more classes, the page lists the most frequent confusions
POINTS = 60  # of a curve
LOOKS = 8  # number of combinations of colour and dash pattern of curves
FILES = ("best.ckpt", "last.ckpt", "metrics.json", "predictions.csv", "config.yaml", "error.log")


def read_runs(ranked: Sequence[Row], root: Path, page: Path) -> Iterator[dict[str, Any]]:
    """Yield what the page shows of each run and exported file.

    Args:
        ranked: Rows of `reports.ranking.rank`.
        root: Folder that `folder` of the rows is relative to.
        page: Folder of the page, which links are relative to.
    """
    run_of = {row.get("folder"): row for row in ranked if not row.get("file")}
    looks = 0
    for i, (row, name) in enumerate(zip(ranked, labels(ranked), strict=True), start=1):
        exported = bool(row.get("file"))
        place = str(row.get("folder") or "")
        folder = root / place
        own = place and not exported  # an exported file has metrics only
        curves = read_curves(folder) if own else {}
        looks += bool(curves)
        known = row.get("classes")
        predictions = read_predictions(folder, [str(c) for c in known]) if own and isinstance(known, list) else None
        yield {
            "id": i, "run": i, "name": name, "folder": place, "exported": exported, "failed": failed(row),
            "rank": row["rank"], "find": one_line(f"{name} {place} {' '.join(overrides(row))}", 900).lower(),
            "tooltip": tooltip(row), "details": details(row), "error": row.get("error") or "",
            "look": looks if curves and looks <= LOOKS else 0, "curves": curves, "charts": list(_charts(curves)),
            "predictions": predictions, "diagrams": _diagrams(predictions, row) if predictions else None,
            "mistakes": list(_mistakes(folder, predictions)) if own else [],
            "config": read_config(folder) if own else {},
            "trace": read_error(folder) if own and failed(row) else "", "overrides": " ".join(overrides(row)),
            "changes": class_changes(row, run_of.get(row.get("folder"))) if exported else [],
            "checkpoint": place if exported else "", "links": list(_links(row, folder, page)) if place else [],
        }  # fmt: skip


def _charts(curves: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]], Any]]:
    """Yield charts over epochs: one of the losses and one of macro F1."""
    for title, keys in (("loss", ("train/loss", "val/loss")), ("macro F1", ("val/f1_macro",))):
        there = {i: curves[key] for i, key in enumerate(keys) if curves.get(key)}
        if chart := curve_chart(there, 340, 260):
            yield title, [(keys[i], line) for i, line in chart["lines"].items()], chart


def _diagrams(found: Predictions, row: Row) -> dict[str, Any]:
    """Return confusion matrix, reliability, risk and coverage, and precision and recall of predictions."""
    matrix = confusion_counts(found.targets, found.predictions, len(found.classes))
    right = found.predictions == found.targets
    binned = reliability(found.confidence, right, BINS)
    pairs = [(a, b, int(matrix[a, b])) for a, b in zip(*np.nonzero(matrix), strict=True) if a != b]
    pairs = [(int(a), int(b), n) for a, b, n in sorted(pairs, key=lambda pair: -pair[2])]
    return {
        "classes": found.classes,
        "confusion": matrix.tolist(),
        "small": len(found.classes) <= MAX_CLASSES,
        "pairs": pairs,
        "wrong": int((~right).sum()),
        "reliability": {key: plain(value) for key, value in binned._asdict().items()},
        "coverage": _coverage(found.confidence, right, row),
        "recall": _precision_recall(found),
    }


def _coverage(confidence: np.ndarray, right: np.ndarray, row: Row) -> dict[str, Any] | None:
    """Return the chart of accuracy against coverage of the kept predictions, and the chosen threshold."""
    share, accuracy, _ = risk_coverage(confidence, right)
    chosen = np.unique(np.linspace(0, len(share) - 1, POINTS).round().astype(int))
    points = [(float(share[i]), float(accuracy[i])) for i in chosen]
    # The accuracy of very few predictions is noisy, so it does not determine the scale.
    low = max(0.0, min(y for x, y in points if x >= 0.05 or (x, y) == points[-1]) - 0.05)
    chart = share_chart({0: [(x, max(y, low)) for x, y in points]}, low)
    kept, kept_accuracy = (number(row, f"{stage(row)}/{key}") for key in ("coverage", "kept_accuracy"))
    spot = None
    if chart and kept == kept and kept_accuracy == kept_accuracy:
        spot = {"x": chart["x"](kept), "y": chart["y"](max(kept_accuracy, low))}
        spot["text"] = (
            f"confidence of at least {number(row, 'threshold'):.3g}: {kept:.1%} kept, {kept_accuracy:.1%} right"
        )
    return chart and {**chart, "spot": spot}


def _precision_recall(found: Predictions) -> dict[str, Any] | None:
    """Return precision-recall curves of the classes with the lowest average precision, at most `LOOKS` of them."""
    curves: list[tuple[float, str, list[tuple[float, float]]]] = []
    for i, name in enumerate(found.classes):
        positive = found.targets == i
        if positive.any():
            recall, precision = precision_recall(found.probabilities[:, i], positive, len(positive) + 1)
            average = float(np.sum(np.diff(recall, prepend=0.0) * precision))
            few = np.unique(np.linspace(0, len(recall) - 1, POINTS).round().astype(int))
            curves.append((average, name, list(zip(recall[few].tolist(), precision[few].tolist(), strict=True))))
    shown = sorted(curves, key=lambda curve: curve[0])[:LOOKS]
    chart = share_chart({i: points for i, (_, _, points) in enumerate(shown)})
    names = [(name, f"{average:.2f}") for average, name, _ in shown]
    return chart and {**chart, "names": names, "left_out": len(curves) - len(shown)}


def _mistakes(folder: Path, predictions: Predictions | None) -> Iterator[dict[str, Any]]:
    """Yield mistakes. `pair` has the positions of label and prediction, e.g. "0-2", or "" if a class is unknown."""
    place = {name: i for i, name in enumerate(predictions.classes)} if predictions else {}
    for mistake in read_mistakes(folder):
        pair = [place.get(mistake["label"]), place.get(mistake["prediction"])]
        yield {**mistake, "pair": "" if None in pair else "-".join(map(str, pair))}


def _links(row: Row, folder: Path, page: Path) -> Iterator[tuple[str, str]]:
    """Yield name and relative address of each file of a run, or of one exported file."""
    path = Path(str(row.get("path") or ""))
    files = [path if path.is_file() else folder / "exported" / path.name] if row.get("file") else []
    for file in files or [folder / name for name in FILES]:
        try:
            if file.is_file():
                yield file.name, quote(os.fsencode(os.path.relpath(file, page)))
        except (OSError, ValueError):  # a name that this system does not allow
            continue
