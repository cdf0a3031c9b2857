"""Stratified, group-aware splits as pure functions of labels, groups and a seed.

A split is {"train": rows, "val": rows, "test": rows}, each (n,) int64, sorted, together every row once (except that a
source which names val but no test photos is evaluated on its val photos). Groups are (N,) int64; each stays together.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from litesort.errors import DataError

Indices = dict[str, np.ndarray]


def plan_split(
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    given: Sequence[str | None],
    *,
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    fold: int | None = None,
    folds: int | None = None,
    seed: int = 0,
) -> tuple[Indices, list[str]]:
    """Choose among the three ways to split, and return the split and the lines that the user should read.

    labels: (N,) int64; classes: name of each label; given: the side that the source puts each photo on, or None.
    """
    check_classes(labels, classes)
    if any(given):
        if folds is not None or fold is not None:
            raise DataError(f"data.folds={folds}: the source names its own split: unset data.fold and data.folds")
        return given_split(labels, groups, classes, given, val_fraction, test_fraction, seed)
    if folds is None and fold is None:
        return split(labels, groups, classes, {"val": val_fraction, "test": test_fraction}, seed), []
    if folds is None or fold is None:
        raise DataError(f"data.fold={fold} data.folds={folds}: give both, e.g. data.fold=0 data.folds=5, or neither")
    return fold_split(labels, groups, classes, fold, folds, val_fraction, seed), []


def check_classes(labels: np.ndarray, classes: Sequence[str]) -> None:
    """Refuse what nothing can be learned from: one class only, or a class with no photo."""
    if len(classes) < 2:
        raise DataError(f"data: one class only ({', '.join(classes)}): a classifier needs at least two")
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        empty = ", ".join(classes[int(label)] for label in np.flatnonzero(counts == 0))
        raise DataError(f"data: no readable photo of class {empty}: add photos or leave the class out")


def split(
    labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], fractions: Mapping[str, float], seed: int
) -> Indices:
    """Split by fractions, each class in the same proportions; what the fractions leave over trains.

    >>> labels = np.repeat([0, 1], 20)
    >>> sides = split(labels, np.arange(40), ["can", "bag"], {"val": 0.2, "test": 0.2}, seed=0)
    >>> [np.bincount(labels[rows]).tolist() for rows in sides.values()]
    [[12, 12], [4, 4], [4, 4]]
    """
    for name, fraction in fractions.items():
        if not 0.0 < fraction < 1.0:
            raise DataError(f"data.{name}_fraction={fraction} must lie between 0 and 1, e.g. 0.15")
    left = 1.0 - sum(fractions.values())
    if left <= 1e-9:
        keys = " + ".join(f"data.{name}_fraction={fraction}" for name, fraction in fractions.items())
        raise DataError(f"{keys} leaves no photo to train on: lower them")
    names = ["train", *fractions]
    sides = _allocate(labels, groups, classes, [left, *fractions.values()], seed, f"{len(names)} splits")
    return {name: np.flatnonzero(sides == side) for side, name in enumerate(names)}


def fold_split(
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    fold: int,
    folds: int,
    val_fraction: float,
    seed: int,
) -> Indices:
    """Test on fold `fold` of `folds`; val is `val_fraction` of all photos, taken from the rest.

    Over all folds each photo is tested on once. `test_fraction` has no part in it.
    """
    if folds < 2:
        raise DataError(f"data.folds={folds} must be at least 2")
    if not 0 <= fold < folds:
        raise DataError(f"data.fold={fold} must lie between 0 and {folds - 1}, as data.folds={folds}")
    place = _allocate(labels, groups, classes, [1.0 / folds] * folds, seed, f"data.folds={folds}")
    rest = np.flatnonzero(place != fold)
    share = val_fraction * folds / (folds - 1)
    if not 0.0 < share < 1.0:
        raise DataError(f"data.val_fraction={val_fraction} must lie between 0 and {(folds - 1) / folds:.2g}, e.g. 0.15")
    inner = split(labels[rest], groups[rest], classes, {"val": share}, seed + 7919 * (fold + 1))
    return {"train": rest[inner["train"]], "val": rest[inner["val"]], "test": np.flatnonzero(place == fold)}


def given_split(
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    given: Sequence[str | None],
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[Indices, list[str]]:
    """Keep the sides that the source names; photos with none train.

    Where val is missing it is taken from the training photos by `val_fraction`; where test is missing but val is not,
    the val photos are the test photos too. The lines returned with the split say so.
    """
    sides = np.array([side or "train" for side in given])
    rows: Indices = {name: np.flatnonzero(sides == name) for name in ("train", "val", "test")}
    if not len(rows["train"]):
        raise DataError("data: the source names no photo to train on: mark some as train, or leave the split out")
    notes = []
    wanted = {"val": val_fraction, "test": test_fraction}
    if len(rows["val"]):
        wanted = {}
    elif len(rows["test"]):
        wanted = {"val": val_fraction}
    if wanted:
        pool = rows["train"]
        check_classes(labels[pool], classes)
        inner = split(labels[pool], groups[pool], classes, wanted, seed)
        rows |= {name: pool[place] for name, place in inner.items()}
        notes.append(f"the data name no {' and no '.join(wanted)} photos: drawn from the training photos")
    elif not len(rows["test"]):
        rows["test"] = rows["val"]
        notes.append(
            "the data name no test photos: the val photos, which choose the checkpoint, are the test photos too"
        )
    crossing = np.intersect1d(groups[sides == "train"], groups[sides != "train"])
    if len(crossing):
        held_out = " and ".join(name for name in ("val", "test") if (sides == name).any())
        notes.append(
            f"{len(crossing)} groups have images both in train and in {held_out}, as the data name them: "
            "test results are too good"
        )
    return rows, notes


def gaps(labels: np.ndarray, classes: Sequence[str], rows: Indices) -> list[str]:
    """Classes that a side lacks: fatal for training, a line for the others."""
    notes = []
    for name, own in rows.items():
        missing = [classes[label] for label in sorted(set(range(len(classes))) - set(labels[own].tolist()))]
        if missing and name == "train":
            raise DataError(f"data: class {', '.join(missing)} has no photo in the train split: put some there")
        if missing:
            notes.append(f"class {', '.join(missing)} has no photo in the {name} split: its scores there mean nothing")
    return notes


def _allocate(
    labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], shares: Sequence[float], seed: int, what: str
) -> np.ndarray:
    """Side of each row, (N,) int64, by `shares` that sum to 1; every class on every side."""
    ids, members = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(ids), len(classes)), np.int64)
    np.add.at(counts, (members, labels), 1)
    units = (counts > 0).sum(0)
    scarce = int(units.argmin())
    if units[scarce] < len(shares):
        kind, hint = ("photo", "") if len(ids) == len(labels) else ("group", ", or make the groups smaller")
        kind += "" if units[scarce] == 1 else "s"
        raise DataError(
            f"data: class {classes[scarce]} has {units[scarce]} {kind}, fewer than {what}: add photos{hint}"
            + (", or lower data.folds" if "folds" in what else "")
        )
    random = np.random.default_rng(seed)
    if len(ids) == len(labels):
        return _singles(labels, np.array(shares), random)
    sides = _greedy(counts, np.array(shares), random)[members]
    for side in range(len(shares)):
        missing = np.flatnonzero(np.bincount(labels[sides == side], minlength=len(classes)) == 0)
        if len(missing):
            raise DataError(f"data: groups too large to bring class {classes[missing[0]]} to {what}: make them smaller")
    return sides


def _singles(labels: np.ndarray, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Ungrouped photos: each class dealt out by largest remainder, at least one a side."""
    sides = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        exact = shares * len(rows)
        quota = np.floor(exact).astype(np.int64)
        quota[np.argsort(quota - exact, kind="stable")[: len(rows) - quota.sum()]] += 1
        while not quota.all():
            quota[quota.argmin()] += 1
            quota[quota.argmax()] -= 1
        sides[rows] = np.repeat(np.arange(len(shares)), quota)
    return sides


def _greedy(counts: np.ndarray, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Side of each group, (G,) int64: largest groups first, each to the side that lacks most of its classes.

    counts: (G, C) photos a class of each group. A side never passes its share by more than the largest group, where
    groups hold one class each.
    """
    totals, waiting = counts.sum(0), (counts > 0).sum(0)
    room = shares[:, None] * totals  # (sides, C), what each side has still to get
    bare = np.ones(room.shape, bool)  # sides that have no photo of a class yet
    sides = np.empty(len(counts), np.int64)
    order = random.permutation(len(counts))
    for group in order[np.argsort(-counts[order].sum(1), kind="stable")]:
        own = np.flatnonzero(counts[group])
        score = (room[:, own] * counts[group, own] / totals[own]).sum(1)
        urgent = own[waiting[own] <= bare[:, own].sum(0)]
        if len(urgent):  # no group may be spared: every one that is left must fill a bare side
            score = np.where(bare[:, urgent].any(1), score, -np.inf)
        sides[group] = score.argmax()
        room[sides[group]] -= counts[group]
        bare[sides[group], own] = False
        waiting[own] -= 1
    return sides
