"""What a run's folder has to show beside its results: curves, answers, mistakes, config. What is missing is empty."""

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

POINTS = 100  # of a curve
BINS = 15  # of a reliability diagram
PICTURE = re.compile(r"data:image/(webp|png|jpeg);base64,[A-Za-z0-9+/]+=*")


class Answers(NamedTuple):
    """What a run answered to its test photos.

    Attributes:
        classes: (C,) names.
        confusion: (C, C) int, row = label, column = prediction.
        confidence: (B,) mean confidence of a bin; None where it is empty.
        accuracy: (B,) share of right answers in it.
        counts: (B,) answers in it.
    """

    classes: list[str]
    confusion: list[list[int]]
    confidence: list[float | None]
    accuracy: list[float | None]
    counts: list[int]


def read_curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Curves of history.csv by name: (epoch, value), at most 100 points of each."""
    rows = _csv(folder / "history.csv")
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, text in row.items():
            value, epoch = _number(text), _number(row.get("epoch"))
            if key and key != "epoch" and math.isfinite(value) and math.isfinite(epoch):
                curves.setdefault(key, []).append((epoch, value))
    return {key: _thin(points) for key, points in curves.items()}


def read_answers(folder: Path, classes: Sequence[str]) -> Answers | None:
    """Confusion matrix and calibration out of predictions.csv; None without it, or where it is of other classes."""
    place = {csv_cell(name): i for i, name in enumerate(classes)}
    columns = [f"p_{name}" for name in classes]
    matrix = np.zeros((len(classes), len(classes)), dtype=int)
    confidence, correct = [], []
    for row in _csv(folder / "predictions.csv"):
        label, answer = place.get(row.get("label")), place.get(row.get("prediction"))
        if label is None or answer is None:
            return None
        matrix[label, answer] += 1
        confidence.append(min(1.0, max(0.0, _number(row.get(csv_cell(columns[answer]))))))
        correct.append(label == answer)
    if not confidence or not all(map(math.isfinite, confidence)):
        return None
    binned = reliability(np.array(confidence), np.array(correct), BINS)
    return Answers(
        list(classes), matrix.tolist(), plain(binned.confidence), plain(binned.accuracy), binned.counts.tolist()
    )


def read_mistakes(folder: Path) -> list[dict[str, Any]]:
    """Entries of mistakes.json that hold a picture: see `reports.mistakes`."""
    try:
        found = parse_json((folder / "mistakes.json").read_text(encoding="utf-8"))["mistakes"]
        return [_picture(entry) for entry in found if PICTURE.fullmatch(entry["photo"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def read_config(folder: Path) -> dict[str, str]:
    """Flat config.yaml, keys joined by dots, values as text; without the values that name the run's own folder."""
    try:
        config = parse_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(config, dict):
        return {}
    own = str(config.get("run_dir") or "\0")
    return {key: value for key, value in _flat(config, "").items() if own not in value}


def read_error(folder: Path, longest: int = 4000) -> str:
    """End of error.log."""
    try:
        return (folder / "error.log").read_text(encoding="utf-8", errors="replace")[-longest:]
    except OSError:
        return ""


def _picture(entry: Mapping[str, Any]) -> dict[str, Any]:
    heat = entry.get("map")
    words = {key: str(entry.get(key, "")) for key in ("file", "label", "prediction")}
    known = {"photo": entry["photo"], "map": heat if heat and PICTURE.fullmatch(heat) else None}
    return {**words, **known, "confidence": _number(entry.get("confidence"))}


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
