"""Leakage of a random split: a linear probe on frozen features, evaluated on several kinds of splits.

    python benchmarks/studies/split_leakage.py --root trashnet

The table has macro F1 on the test images (15 %), mean and standard deviation over seeds, of a logistic regression and
of the nearest training image, which measures memorisation. The last columns are of near-duplicate pairs (by pixels, and
by pixels or features): the share of them that each split keeps together.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from datamodules.cache.config import CacheConfig
from datamodules.datamodule import ImageDataModule
from datamodules.quality.audit import NEAR
from datamodules.quality.duplicates import duplicate_ids, similar_pairs, small_images
from datamodules.quality.embeddings import HistogramEmbedder, features
from datamodules.quality.label_issues import fit
from datamodules.quality.outliers import knn_distances
from datamodules.sources.folder import FolderSource
from datamodules.splits.config import SplitConfig
from lightning_modules.backbones.embedder import default_embedder

NUMBER = r"([a-z]+)(\d+)\.jpg$"
SPLITS = {
    "random": {},
    "blocks of ten numbers": {"group_by": NUMBER, "group_block": 10},
    "duplicates": {"group_by": "duplicates"},
    "duplicates and blocks": {"group_by": ["duplicates", NUMBER], "group_block": 10},
}


def f1_macro(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Macro F1 of predictions (N,) int for targets (N,) int."""
    scores = []
    for label in np.unique(targets):
        hits = np.sum((targets == label) & (predictions == label))
        scores.append(2 * hits / max(1, np.sum(targets == label) + np.sum(predictions == label)))
    return float(np.mean(scores))


def evaluated(found: np.ndarray, labels: np.ndarray, rows: dict[str, np.ndarray]) -> tuple[float, float]:
    """Macro F1 of the probe and of the nearest training image, on the test images."""
    train, test = rows["train"], rows["test"]
    probe = fit(found[train], labels[train], int(labels.max()) + 1)
    nearest = train[(found[test] @ found[train].T).argmax(1)]
    with torch.inference_mode():
        predictions = probe(torch.from_numpy(found[test])).argmax(1).numpy()
    return f1_macro(labels[test], predictions), f1_macro(labels[test], labels[nearest])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="TrashNet: one sub-folder per class")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--cache-dir", type=Path)
    options = parser.parse_args()
    embed = default_embedder()
    data = ImageDataModule(FolderSource(options.root), size=64, cache=CacheConfig(cache_dir=options.cache_dir))
    data.setup()
    labels, count = data.labels, len(data.samples)
    found, embedder = features(data, embed or HistogramEmbedder(), np.arange(count))
    first, second, similarity = similar_pairs(small_images(data.source, data.cache_config, False).array)
    by_pixels = [(int(a), int(b)) for a, b in zip(first, second, strict=True)]
    similar = {(int(a), int(b)) for a, b, value in zip(first, second, similarity, strict=True) if value > 0.9}
    near = {(a, b) for a, b, _ in knn_distances(found, NEAR)[1]}
    both = {*by_pixels} | near
    groups = duplicate_ids(count, by_pixels)
    table = Table(
        "split", "probe", "nearest image", f"{len(similar)} pairs > 0.9", f"{len(both)} by pixels or features"
    )
    for name, settings in SPLITS.items():
        scores, kept = [], []
        for seed in range(options.seeds):
            config = SplitConfig(seed=seed, **settings)
            rows, _ = config.split(data.samples, labels, data.classes, groups)
            split_of = {int(row): split for split, own in rows.items() for row in own}
            kept.append([np.mean([split_of[a] == split_of[b] for a, b in pairs]) for pairs in (similar, both)])
            scores.append(evaluated(found, labels, rows))
        mean, spread, together = np.mean(scores, 0), np.std(scores, 0), np.mean(kept, 0)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
        table.add_row(name, *cells, *(f"{share:.1%}" for share in together))
    Console().print(table)
    print(f"{count} images, compared by {embedder.name}, {options.seeds} seeds")


if __name__ == "__main__":
    main()
