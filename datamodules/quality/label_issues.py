"""Photos whose label is likely wrong: a linear probe answers for photos that it did not learn from, and disagrees.

Confident learning (Northcutt, Jiang and Chuang 2021, https://arxiv.org/abs/1911.00068) tells disagreement from doubt:
by the package cleanlab where it is installed, else by the same formula here.
"""

import importlib.util

import numpy as np
import torch
from torch.nn import functional as F

FOLDS = 5
PENALTY = 3e-4  # of squared weights, for features of mean square 1 / D; chosen on TrashNet with planted labels
SURE = 0.1  # a label is suspected where the probe gives it less than this probability


def out_of_fold(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """Probabilities (N, C) float64 of a logistic regression for photos that it did not see, nor a duplicate of them.

    features: (N, D) float32, rows of length 1; labels: (N,) int64 from 0 to C - 1; groups: (N,) int64, equal for
    photos that must be on one side. Every class needs a photo.
    """
    classes = int(labels.max()) + 1
    folds = _folds(labels, groups, seed)
    answers = np.full((len(labels), classes), 1 / classes)
    for fold in range(FOLDS):
        own = folds == fold
        if own.any() and not own.all():
            weights = fit(features[~own], labels[~own], classes)
            answers[own] = _answer(features[own], weights).softmax(1).double().numpy()
    return answers / answers.sum(1, keepdims=True)


def fit(features: np.ndarray, labels: np.ndarray, classes: int, steps: int = 60) -> torch.Tensor:
    """Weights (D + 1, C) float32 of a multinomial logistic regression with a penalty on squares, by L-BFGS."""
    photos, targets = torch.from_numpy(features), torch.from_numpy(labels)
    weights = torch.zeros(features.shape[1] + 1, classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(photos @ weights[:-1] + weights[-1], targets)
        value = value + PENALTY / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


def _answer(features: np.ndarray, weights: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(features) @ weights[:-1] + weights[-1]


def _folds(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Fold of each photo (N,): groups stay whole, each class (of a group's first photo) is dealt out evenly."""
    ids, first, members = np.unique(groups, return_index=True, return_inverse=True)
    place = np.empty(len(ids), np.int64)
    random = np.random.default_rng(seed)
    for label in np.unique(labels[first]):
        own = random.permutation(np.flatnonzero(labels[first] == label))
        place[own] = np.arange(len(own)) % FOLDS
    return place[members]


def label_issues(labels: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of photos whose label is likely wrong, worst first, and the likely labels; both (S,) int64.

    labels: (N,) int64; answers: (N, C) out-of-fold probabilities. Photos of a class with fewer than `FOLDS` photos are
    not evaluated: the probe hardly knows it.
    """
    own = answers[np.arange(len(labels)), labels]
    issues = _with_cleanlab(labels, answers) if has_cleanlab() else confident_learning(labels, answers)
    known = np.bincount(labels, minlength=answers.shape[1])[labels] >= FOLDS
    places = np.flatnonzero(issues & known & (own < SURE))
    places = places[np.argsort(own[places], kind="stable")]
    return places, answers[places].argmax(1)


def has_cleanlab() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("cleanlab") is not None


def _with_cleanlab(labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    from cleanlab.filter import find_label_issues

    return np.asarray(find_label_issues(labels, answers, filter_by="prune_by_noise_rate", n_jobs=1), bool)


def confident_learning(labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Which labels are wrong (N,) bool, pruned by noise rate: as many of each kind of error as the joint says.

    A photo counts as truly j where its probability of j is above the mean that photos labelled j have (the largest
    such j). Of photos labelled i, as many as are estimated to be j are pruned, those that lean most from i to j.
    """
    count, classes = answers.shape
    totals = np.bincount(labels, minlength=classes)
    means = np.array([answers[labels == j, j].mean() if totals[j] else np.inf for j in range(classes)])
    above = np.where(answers >= means - 1e-6, answers, 0)
    joint = np.zeros((classes, classes))
    counted = above.any(1)
    np.add.at(joint, (labels[counted], above[counted].argmax(1)), 1)
    sums = joint.sum(1, keepdims=True)
    joint = np.where(sums > 0, joint / np.maximum(sums, 1), np.eye(classes)) * totals[:, None]
    wrong = np.zeros(count, bool)
    for i, j in zip(*np.nonzero(joint >= 0.5), strict=True):
        own = np.flatnonzero(labels == i)
        if i != j and len(own) > FOLDS:
            lean = answers[own, i] - answers[own, j]
            wrong[own[np.argsort(lean, kind="stable")[: round(joint[i, j])]]] = True
    return wrong & (answers.argmax(1) != labels)
