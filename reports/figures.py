"""Pictures of a run: drawn without global state, readable in print and by the colour-blind, written atomically."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], path: Path, title: str = "") -> Path:
    """Counts (C, C), rows = labels."""
    raise NotImplementedError


def reliability_diagram(confidence: np.ndarray, correct: np.ndarray, path: Path, bins: int = 15, title: str = "") -> Path:
    """Confidence against accuracy."""
    raise NotImplementedError


def f1_bars(f1: Mapping[str, float], path: Path, support: Mapping[str, int] | None = None, title: str = "") -> Path:
    """F1 a class."""
    raise NotImplementedError


def pareto(points: Sequence[tuple[str, float, float]], path: Path, title: str = "") -> Path:
    """(name, latency in ms, macro F1)."""
    raise NotImplementedError


def training_curves(history: Sequence[Mapping[str, float]], path: Path, title: str = "") -> Path:
    """One mapping an epoch, as in metrics.csv."""
    raise NotImplementedError
