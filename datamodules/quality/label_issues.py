"""Label issues: images whose label is probably wrong, by out-of-fold predictions of a linear probe.

Confident learning (Northcutt, Jiang and Chuang 2021, https://arxiv.org/abs/1911.00068) estimates the number of label
errors. The package cleanlab computes it if it is installed, otherwise the same formula in this module.
"""

import importlib.util

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

FOLDS = 5
PENALTY = 3e-4  # L2 penalty for features of mean square 1 / D; chosen on TrashNet with known label errors
MAX_PROBABILITY = 0.1  # a label with a higher probability is not reported


def out_of_fold(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """Out-of-fold probabilities (N, C) float64 of a logistic regression. Duplicates are in the same fold.

    Args:
        features: (N, D) float32, rows of length 1.
        labels: (N,) int64 from 0 to C - 1; each class has an image.
        groups: (N,) int64, equal for images that must be in one fold.
        seed: Seed of the folds.
    """
    classes = int(labels.max()) + 1
    folds = _folds(labels, groups, seed)
    probabilities = np.full((len(labels), classes), 1 / classes)
    for fold in range(FOLDS):
        own = folds == fold
        if own.any() and not own.all():
            probe = fit(features[~own], labels[~own], classes)
            with torch.inference_mode():
                probabilities[own] = probe(torch.from_numpy(features[own])).softmax(1).double().numpy()
    return probabilities / probabilities.sum(1, keepdims=True)


def fit(features: np.ndarray, labels: np.ndarray, classes: int, steps: int = 60) -> nn.Linear:
    """Fit a multinomial logistic regression with an L2 penalty by L-BFGS: (B, D) float32 -> (B, C) logits."""
    images, targets = torch.from_numpy(features), torch.from_numpy(labels)
    probe = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(probe(images), targets) + PENALTY / 2 * probe.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return probe


def _folds(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Fold of each image (N,). Groups are not divided. Classes, by the first image of a group, are spread evenly."""
    ids, first, members = np.unique(groups, return_index=True, return_inverse=True)
    place = np.empty(len(ids), np.int64)
    random = np.random.default_rng(seed)
    for label in np.unique(labels[first]):
        own = random.permutation(np.flatnonzero(labels[first] == label))
        place[own] = np.arange(len(own)) % FOLDS
    return place[members]


def label_issues(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find images whose label is probably wrong.

    Args:
        labels: (N,) int64.
        probabilities: (N, C) out-of-fold probabilities.

    Returns:
        Indices of the images (S,) int64, least probable label first, and their likely labels (S,) int64. Classes with
        fewer than `FOLDS` images are not checked, since the probe cannot learn them.
    """
    own = probabilities[np.arange(len(labels)), labels]
    issues = _with_cleanlab(labels, probabilities) if has_cleanlab() else confident_learning(labels, probabilities)
    checked = np.bincount(labels, minlength=probabilities.shape[1])[labels] >= FOLDS
    places = np.flatnonzero(issues & checked & (own < MAX_PROBABILITY))
    places = places[np.argsort(own[places], kind="stable")]
    return places, probabilities[places].argmax(1)


def has_cleanlab() -> bool:
    """Whether the package cleanlab is installed."""
    return importlib.util.find_spec("cleanlab") is not None


def _with_cleanlab(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    from cleanlab.filter import find_label_issues

    return np.asarray(find_label_issues(labels, probabilities, filter_by="prune_by_noise_rate", n_jobs=1), bool)


def confident_learning(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return which labels are wrong, (N,) bool, by confident learning with pruning by noise rate.

    An image counts as class j if its probability of j is at least the mean probability of j over images labelled j. Of
    several such classes, the most probable one counts. For each pair of classes (i, j), this estimates how many images
    labelled i are of class j. This number of images is marked, in the order of the margin p(j) - p(i), largest first.
    """
    count, classes = probabilities.shape
    totals = np.bincount(labels, minlength=classes)
    means = np.array([probabilities[labels == j, j].mean() if totals[j] else np.inf for j in range(classes)])
    above = np.where(probabilities >= means - 1e-6, probabilities, 0)
    joint = np.zeros((classes, classes))
    counted = above.any(1)
    np.add.at(joint, (labels[counted], above[counted].argmax(1)), 1)
    sums = joint.sum(1, keepdims=True)
    joint = np.where(sums > 0, joint / np.maximum(sums, 1), np.eye(classes)) * totals[:, None]
    wrong = np.zeros(count, bool)
    for i, j in zip(*np.nonzero(joint >= 0.5), strict=True):
        own = np.flatnonzero(labels == i)
        if i != j and len(own) > FOLDS:
            margin = probabilities[own, i] - probabilities[own, j]
            wrong[own[np.argsort(margin, kind="stable")[: round(joint[i, j])]]] = True
    return wrong & (probabilities.argmax(1) != labels)
