"""Read a run folder: curves, predictions, mistakes, config, error. A missing or damaged file gives an empty value."""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from litesort.io import csv_cell, plain
from litesort.plain_data import parse_json, parse_yaml

POINTS = 100  # largest number of points of a curve
IMAGE_URL = re.compile(r"data:image/(webp|png|jpeg);base64,[A-Za-z0-9+/]+=*")


class Predictions(NamedTuple):
    """Predictions of a run for its evaluated images.

    Attributes:
        classes: (C,) names.
        files: (N,) names of the images, as `litesort.io.csv_cell` writes them.
        targets: (N,) int, true classes.
        predictions: (N,) int, predicted classes.
        probabilities: (N, C) float in [0, 1].
    """

    classes: list[str]
    files: list[str]
    targets: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, (N,) float in [0, 1]."""
        return self.probabilities[np.arange(len(self.files)), self.predictions]


def read_curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Read the curves of history.csv: column name -> at most 100 points (epoch, value)."""
    rows = _csv(folder / "history.csv")
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, text in row.items():
            value, epoch = _number(text), _number(row.get("epoch"))
            if key and key != "epoch" and math.isfinite(value) and math.isfinite(epoch):
                curves.setdefault(key, []).append((epoch, value))
    return {key: _thinned(points) for key, points in curves.items()}


def read_predictions(folder: Path, classes: Sequence[str]) -> Predictions | None:
    """Read predictions.csv; None if it is missing, has no image, or has other classes."""
    index = {csv_cell(name): i for i, name in enumerate(classes)}
    columns = [csv_cell(f"p_{name}") for name in classes]
    rows = _csv(folder / "predictions.csv")
    labels = [index.get(row.get("label") or "") for row in rows]
    predictions = [index.get(row.get("prediction") or "") for row in rows]
    probabilities = np.array([[_number(row.get(column)) for column in columns] for row in rows])
    if not rows or None in labels or None in predictions or not np.isfinite(probabilities).all():
        return None
    files = [str(row.get("file")) for row in rows]
    return Predictions(list(classes), files, np.array(labels), np.array(predictions), probabilities.clip(0, 1))


def read_mistakes(folder: Path) -> list[dict[str, Any]]:
    """Read the entries of mistakes.json whose image is a valid `data:` URL; see `reports.mistakes`."""
    try:
        found = parse_json((folder / "mistakes.json").read_text(encoding="utf-8"))["mistakes"]
        return [_mistake(entry) for entry in found if IMAGE_URL.fullmatch(entry["image"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def read_config(folder: Path) -> dict[str, str]:
    """Read config.yaml as a flat mapping from dotted keys to text. Values with the run folder are left out."""
    try:
        config = parse_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(config, dict):
        return {}
    own = str(config.get("run_dir") or "\0")
    return {key: value for key, value in _flat(config, "").items() if own not in value}


def read_importances(folder: Path) -> dict[str, dict[str, float]]:
    """Read the importance of settings from search.json of a sweep: metric -> setting -> share in [0, 1]."""
    try:
        found = parse_json((folder / "search.json").read_text(encoding="utf-8"))["importances"]
        return {
            str(metric): {str(key): _number(share) for key, share in of.items() if math.isfinite(_number(share))}
            for metric, of in found.items()
            if of
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def read_error(folder: Path, longest: int = 4000) -> str:
    """Return the last `longest` characters of error.log; "" without the file."""
    try:
        return (folder / "error.log").read_text(encoding="utf-8", errors="replace")[-longest:]
    except OSError:
        return ""


def _mistake(entry: Mapping[str, Any]) -> dict[str, Any]:
    heat_map = entry.get("map")
    texts = {key: str(entry.get(key, "")) for key in ("file", "label", "prediction")}
    images = {"image": entry["image"], "map": heat_map if heat_map and IMAGE_URL.fullmatch(heat_map) else None}
    return {**texts, **images, "confidence": _number(entry.get("confidence"))}


def _flat(value: Any, prefix: str) -> dict[str, str]:
    if isinstance(value, dict) and value:
        parts = [_flat(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items()]
        return {key: text for part in parts for key, text in part.items()}
    if isinstance(value, str):
        return {prefix: value}
    return {prefix: json.dumps(plain(value), ensure_ascii=False)}


def _csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            return list(csv.DictReader(file))
    except (OSError, csv.Error):
        return []


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= POINTS:
        return points
    return [points[i] for i in np.linspace(0, len(points) - 1, POINTS).round().astype(int)]
