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
from reports.calibration import reliability
from reports.per_class import confusion_counts

POINTS = 100  # per curve, at most
BINS = 15  # per reliability diagram
IMAGE_URL = re.compile(r"data:image/(webp|png|jpeg);base64,[A-Za-z0-9+/]+=*")


class Predictions(NamedTuple):
    """Predictions of a run for its test images, summarised.

    Attributes:
        classes: (C,) names.
        confusion: (C, C) int, row = label, column = prediction.
        confidence: (B,) mean confidence of each bin; None where the bin is empty.
        accuracy: (B,) share of right predictions in each bin; None where the bin is empty.
        counts: (B,) predictions in each bin.
    """

    classes: list[str]
    confusion: list[list[int]]
    confidence: list[float | None]
    accuracy: list[float | None]
    counts: list[int]


def read_curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Curves of history.csv by column name, each a list of at most 100 (epoch, value)."""
    rows = _csv(folder / "history.csv")
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, text in row.items():
            value, epoch = _number(text), _number(row.get("epoch"))
            if key and key != "epoch" and math.isfinite(value) and math.isfinite(epoch):
                curves.setdefault(key, []).append((epoch, value))
    return {key: _thin(points) for key, points in curves.items()}


def read_predictions(folder: Path, classes: Sequence[str]) -> Predictions | None:
    """Confusion matrix and calibration from predictions.csv; None without the file or if its classes differ."""
    place = {csv_cell(name): i for i, name in enumerate(classes)}
    columns = [f"p_{name}" for name in classes]
    labels, predictions, confidence = [], [], []
    for row in _csv(folder / "predictions.csv"):
        label, prediction = place.get(row.get("label")), place.get(row.get("prediction"))
        if label is None or prediction is None:
            return None
        labels.append(label)
        predictions.append(prediction)
        confidence.append(min(1.0, max(0.0, _number(row.get(csv_cell(columns[prediction]))))))
    if not confidence or not all(map(math.isfinite, confidence)):
        return None
    targets, predicted = np.array(labels), np.array(predictions)
    counts = confusion_counts(targets, predicted, len(classes))
    binned = reliability(np.array(confidence), targets == predicted, BINS)
    return Predictions(
        list(classes), counts.tolist(), plain(binned.confidence), plain(binned.accuracy), binned.counts.tolist()
    )


def read_mistakes(folder: Path) -> list[dict[str, Any]]:
    """Entries of mistakes.json whose image is a valid `data:` URL; see `reports.mistakes`."""
    try:
        found = parse_json((folder / "mistakes.json").read_text(encoding="utf-8"))["mistakes"]
        return [_mistake(entry) for entry in found if IMAGE_URL.fullmatch(entry["image"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def read_config(folder: Path) -> dict[str, str]:
    """Flat config.yaml: keys joined by dots, values as text. Values that contain the run folder's path are left out."""
    try:
        config = parse_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(config, dict):
        return {}
    own = str(config.get("run_dir") or "\0")
    return {key: value for key, value in _flat(config, "").items() if own not in value}


def read_error(folder: Path, longest: int = 4000) -> str:
    """Last `longest` characters of error.log; empty without the file."""
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


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= POINTS:
        return points
    return [points[i] for i in np.linspace(0, len(points) - 1, POINTS).round().astype(int)]
