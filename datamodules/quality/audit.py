"""Audit by image features: label issues, outliers, additional duplicates, and leakage between splits."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from datamodules.datamodule import ImageDataModule
from datamodules.quality.duplicates import duplicate_ids
from datamodules.quality.embeddings import Embed, HistogramEmbedder, features
from datamodules.quality.label_issues import has_cleanlab, label_issues, out_of_fold
from datamodules.quality.outliers import knn_distances, outliers
from datamodules.splits.config import DUPLICATES
from litesort.errors import DataError

NEAR = 0.72  # smallest cosine similarity of the standardised features of duplicates


def audit(
    data: ImageDataModule, pairs: list[dict[str, Any]], broken: Mapping[int, str], embed: Embed | None, progress: bool
) -> dict[str, Any]:
    """Audit labels and images by features.

    Args:
        data: Data module after `setup`.
        pairs: Duplicates by pixels. Duplicates by features are appended.
        broken: Row -> reason.
        embed: A frozen network that computes image features; None uses histograms.
        progress: Show a progress bar.

    Returns:
        Plain data. features: name of the embedder. method: method that found the label issues. label_issues: row,
        given_label, predicted_label, given_probability and predicted_probability (of these labels, out of fold).
        outliers: row, distance. leakage: split -> see `leakage`.
    """
    rows = np.setdiff1d(np.arange(len(data.samples)), np.fromiter(broken, np.int64, len(broken)))
    found, embedder = features(data, embed or HistogramEmbedder(), rows, progress)
    labels = data.labels[rows]
    distances, near = knn_distances(found, 2.0 if isinstance(embedder, HistogramEmbedder) else NEAR)
    known = {tuple(pair["rows"]) for pair in pairs}
    for first, second, cosine in near:
        pair = int(rows[first]), int(rows[second])
        if pair not in known:
            pairs.append({"rows": list(pair), "similarity": round(cosine, 3), "equal": False, "by": "features"})
    groups = duplicate_ids(len(data.samples), (pair["rows"] for pair in pairs))[rows]
    present, inner = np.unique(labels, return_inverse=True)
    probabilities = out_of_fold(found, inner, groups)
    places, likely = label_issues(inner, probabilities)
    return {
        "features": embedder.name,
        "method": "cleanlab" if has_cleanlab() else "confident learning",
        "label_issues": [
            {
                "row": int(rows[place]),
                "given_label": data.classes[labels[place]],
                "predicted_label": data.classes[present[label]],
                "given_probability": round(float(probabilities[place, inner[place]]), 4),
                "predicted_probability": round(float(probabilities[place, label]), 4),
            }
            for place, label in zip(places, likely, strict=True)
        ],
        "outliers": [
            {"row": int(rows[place]), "distance": round(float(distances[place]), 4)}
            for place in outliers(distances, labels)
        ],
        "leakage": _leakage(data, pairs),
    }  # fmt: skip


def _leakage(data: ImageDataModule, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Leakage of the current split and of the split with `data.group_by=duplicates`."""
    present = {"present": leakage(data.splits, pairs)}
    rules = [DUPLICATES, *(rule for rule in data.split_config.group_rules if rule != DUPLICATES)]
    by_pixels = duplicate_ids(len(data.samples), (pair["rows"] for pair in pairs if pair["by"] == "pixels"))
    try:
        other, _ = data.split_with(replace(data.split_config, group_by=rules), by_pixels)
    except DataError as error:
        return present | {"group_by=duplicates": {"impossible": str(error)}}
    return present | {"group_by=duplicates": leakage(other, pairs)}


def leakage(splits: Mapping[str, np.ndarray], pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Count duplicates across splits.

    Args:
        splits: Rows of each split. Other images are unused and are not counted.
        pairs: Duplicates.

    Returns:
        images: number of images of each split. crossing: number of pairs across splits. by_pixels: number of these
        pairs that were found by pixels. leaked: share of test images with a duplicate in train, in [0, 1].
    """
    split_of = {int(row): name for name, rows in splits.items() for row in rows}
    used = [pair for pair in pairs if split_of.keys() >= set(pair["rows"])]
    across = [pair for pair in used if len({split_of[row] for row in pair["rows"]}) > 1]
    both = [rows for pair in across for rows in (pair["rows"], pair["rows"][::-1])]
    leaked = {a for a, b in both if (split_of[a], split_of[b]) == ("test", "train")}
    images = {name: len(rows) for name, rows in splits.items()}
    by_pixels = sum(pair["by"] == "pixels" for pair in across)
    share = len(leaked) / max(1, images["test"])
    return {"images": images, "crossing": len(across), "by_pixels": by_pixels, "leaked": share}
