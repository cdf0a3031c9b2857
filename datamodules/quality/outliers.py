"""Distances between photos in the space of their features: which are rare, and which are nearly one."""

import numpy as np

BLOCK = 512  # photos that are compared with all others at once
NEIGHBOURS = 10
RARE = 3.5  # spreads (1.4826 * median absolute deviation) beyond the median


def knn_distances(
    features: np.ndarray, near: float, neighbours: int = NEIGHBOURS
) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Mean distance to the nearest others (N,) float32, and pairs (one, other, cosine) of at least `near`.

    features: (N, D) float32, rows of length 1. Distance is 1 - cosine, from 0 to 2. The whole matrix never exists.
    """
    count = len(features)
    mean = np.zeros(count, np.float32)
    pairs: list[tuple[int, int, float]] = []
    neighbours = min(neighbours, count - 1)
    for start in range(0, count if neighbours > 0 else 0, BLOCK):
        alike = features[start : start + BLOCK] @ features.T
        own = np.arange(len(alike))
        alike[own, own + start] = -1
        nearest = np.partition(alike, count - neighbours, axis=1)[:, count - neighbours :]
        mean[start : start + BLOCK] = 1 - nearest.mean(1)
        one, other = np.nonzero(alike >= near)
        later = other > one + start
        pairs += zip(
            (one[later] + start).tolist(), other[later].tolist(), alike[one, other][later].tolist(), strict=True
        )
    return mean, pairs


def outliers(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Places (R,) int64 of photos that are far from all others, for their class, the furthest first."""
    beyond = np.full(len(distances), -np.inf)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        middle = np.median(distances[own])
        spread = 1.4826 * np.median(np.abs(distances[own] - middle))
        beyond[own] = (distances[own] - middle) / max(spread, 1e-6)
    order = np.argsort(-beyond, kind="stable")
    return order[beyond[order] > RARE]
