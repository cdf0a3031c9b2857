"""Distances between images in feature space: outliers and near duplicates."""

import numpy as np

BLOCK = 512  # images that are compared with all others in one matrix product
NEIGHBOURS = 10
MAX_DEVIATION = 3.5  # above the median, in robust standard deviations (1.4826 * median absolute deviation)


def knn_distances(
    features: np.ndarray, near: float, neighbours: int = NEIGHBOURS
) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Mean distance to the nearest neighbours, and pairs of high similarity.

    Args:
        features: (N, D) float32, rows of length 1.
        near: Smallest cosine similarity of a pair.
        neighbours: Number of neighbours.

    Returns:
        Mean distance (N,) float32, where distance is 1 - cosine, in [0, 2]; and pairs (row, row, cosine). The full
        similarity matrix is never in memory.
    """
    count = len(features)
    mean = np.zeros(count, np.float32)
    pairs: list[tuple[int, int, float]] = []
    neighbours = min(neighbours, count - 1)
    for start in range(0, count if neighbours > 0 else 0, BLOCK):
        similarity = features[start : start + BLOCK] @ features.T
        own = np.arange(len(similarity))
        similarity[own, own + start] = -1
        nearest = np.partition(similarity, count - neighbours, axis=1)[:, count - neighbours :]
        mean[start : start + BLOCK] = 1 - nearest.mean(1)
        one, other = np.nonzero(similarity >= near)
        later = other > one + start
        pairs += zip(
            (one[later] + start).tolist(), other[later].tolist(), similarity[one, other][later].tolist(), strict=True
        )
    return mean, pairs


def outliers(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find images that are far from their nearest neighbours, compared with other images of their class.

    Args:
        distances: (N,) float32, from `knn_distances`.
        labels: (N,) int64.

    Returns:
        Indices (R,) int64, furthest first.
    """
    deviations = np.full(len(distances), -np.inf)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        median = np.median(distances[own])
        spread = 1.4826 * np.median(np.abs(distances[own] - median))
        deviations[own] = (distances[own] - median) / max(spread, 1e-6)
    order = np.argsort(-deviations, kind="stable")
    return order[deviations[order] > MAX_DEVIATION]
