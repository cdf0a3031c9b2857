"""Stratified, group-aware splits: pure functions of labels, groups and a seed.

A split is {"train": rows, "val": rows, "test": rows}. Each value is (n,) int64, sorted. Each row is in exactly one
split, with one exception: if a source defines val but no test images, its val images are also its test images. `groups`
is (N,) int64; a group stays in one split.
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
    """Split as the source defines it, by folds or by fractions.

    Args:
        labels: (N,) int64.
        groups: (N,) int64.
        classes: Name of each label.
        given: Split of each image as the source defines it, or None.
        val_fraction: Share of all images in val, as in `SplitConfig`.
        test_fraction: Share of all images in test.
        fold: Fold that is the test split, from 0; None for no folds.
        folds: Number of folds; None for no folds.
        seed: Seed of the split.

    Returns:
        The split, and messages for the user.

    Raises:
        DataError: The settings do not fit the data.
    """
    check_classes(labels, classes)
    if any(given):
        if folds is not None or fold is not None:
            raise DataError(f"data.folds={folds}: the source defines its own split: unset data.fold and data.folds")
        return given_split(labels, groups, classes, given, val_fraction, test_fraction, seed)
    if folds is None and fold is None:
        return split(labels, groups, classes, {"val": val_fraction, "test": test_fraction}, seed), []
    if folds is None or fold is None:
        shown = " ".join(
            f"{key}={'null' if n is None else n}" for key, n in (("data.fold", fold), ("data.folds", folds))
        )
        raise DataError(f"{shown}: set both, e.g. data.fold=0 data.folds=5, or neither")
    return fold_split(labels, groups, classes, fold, folds, val_fraction, seed), []


def check_classes(labels: np.ndarray, classes: Sequence[str]) -> None:
    """Raise DataError if there are fewer than two classes, or a class without images."""
    if len(classes) < 2:
        raise DataError(f"data: only one class ({', '.join(classes)}): at least two are needed")
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        empty = ", ".join(classes[int(label)] for label in np.flatnonzero(counts == 0))
        raise DataError(f"data: no readable image of class {empty}: add images or leave the class out")


def split(
    labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], fractions: Mapping[str, float], seed: int
) -> Indices:
    """Split by fractions, stratified by class. Images in no other split are training images.

    >>> labels = np.repeat([0, 1], 20)
    >>> rows = split(labels, np.arange(40), ["can", "bag"], {"val": 0.2, "test": 0.2}, seed=0)
    >>> [np.bincount(labels[own]).tolist() for own in rows.values()]
    [[12, 12], [4, 4], [4, 4]]
    """
    for name, fraction in fractions.items():
        if not 0.0 < fraction < 1.0:
            raise DataError(f"data.{name}_fraction={fraction} is invalid: expected a number between 0 and 1, e.g. 0.15")
    left = 1.0 - sum(fractions.values())
    if left <= 1e-9:
        keys = " + ".join(f"data.{name}_fraction={fraction}" for name, fraction in fractions.items())
        raise DataError(f"{keys} leave no image to train on: lower them")
    names = ["train", *fractions]
    assigned = _allocate(labels, groups, classes, [left, *fractions.values()], seed, f"{len(names)} splits")
    return {name: np.flatnonzero(assigned == part) for part, name in enumerate(names)}


def fold_split(
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    fold: int,
    folds: int,
    val_fraction: float,
    seed: int,
) -> Indices:
    """Test on fold `fold` of `folds`. Val is `val_fraction` of all images, taken from the other folds.

    Over all folds, each image is in test exactly once. `test_fraction` is not used.
    """
    if folds < 2:
        raise DataError(f"data.folds={folds} is invalid: expected an integer of at least 2")
    if not 0 <= fold < folds:
        raise DataError(f"data.fold={fold} is invalid: expected an integer from 0 to {folds - 1} (data.folds={folds})")
    place = _allocate(labels, groups, classes, [1.0 / folds] * folds, seed, f"data.folds={folds}")
    rest = np.flatnonzero(place != fold)
    share = val_fraction * folds / (folds - 1)
    if not 0.0 < share < 1.0:
        raise DataError(
            f"data.val_fraction={val_fraction} is invalid: expected a number between 0 and {(folds - 1) / folds:.2g}"
        )
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
    """Keep the split that the source defines. Images without a split are training images.

    If the source defines no val images, val is drawn from the training images; if it defines no test images either, so
    is test. The fractions are shares of the training images then. If only test is missing, the val images are also the
    test images. The returned messages report each of these cases.
    """
    assigned = np.array([part or "train" for part in given])
    rows: Indices = {name: np.flatnonzero(assigned == name) for name in ("train", "val", "test")}
    if not len(rows["train"]):
        raise DataError("data: the source defines no training image: mark some as train, or leave the split out")
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
        notes.append(f"the source defines no {' and no '.join(wanted)} split: it is drawn from the training images")
    elif not len(rows["test"]):
        rows["test"] = rows["val"]
        notes.append(
            "the source defines no test split: the val images, which choose the checkpoint, are also the test images"
        )
    crossing = np.intersect1d(groups[assigned == "train"], groups[assigned != "train"])
    if len(crossing):
        held_out = " and ".join(name for name in ("val", "test") if (assigned == name).any())
        notes.append(
            f"{len(crossing)} groups have images both in train and in {held_out}, as the source defines them: "
            "test results are too optimistic"
        )
    return rows, notes


def missing_class_notes(labels: np.ndarray, classes: Sequence[str], rows: Indices) -> list[str]:
    """Return a message for each split (val, test) that lacks classes; raise DataError if train lacks one."""
    notes = []
    for name, own in rows.items():
        missing = [classes[label] for label in sorted(set(range(len(classes))) - set(labels[own].tolist()))]
        if missing and name == "train":
            raise DataError(f"data: class {', '.join(missing)} has no image in the train split: add some")
        if missing:
            notes.append(f"class {', '.join(missing)} has no image in the {name} split: its scores there are undefined")
    return notes


def _allocate(
    labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], shares: Sequence[float], seed: int, what: str
) -> np.ndarray:
    """Split of each row, (N,) int64, by `shares` that sum to 1. Every class is in every split."""
    ids, members = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(ids), len(classes)), np.int64)
    np.add.at(counts, (members, labels), 1)
    units = (counts > 0).sum(0)
    scarce = int(units.argmin())
    if units[scarce] < len(shares):
        kind, hint = ("image", "") if len(ids) == len(labels) else ("group", ", or make the groups smaller")
        kind += "" if units[scarce] == 1 else "s"
        raise DataError(
            f"data: class {classes[scarce]} has {units[scarce]} {kind}, fewer than {what}: add images{hint}"
            + (", or lower data.folds" if "folds" in what else "")
        )
    random = np.random.default_rng(seed)
    if len(ids) == len(labels):
        return _assign_images(labels, np.array(shares), random)
    assigned = _assign_groups(counts, np.array(shares), random)[members]
    for part in range(len(shares)):
        missing = np.flatnonzero(np.bincount(labels[assigned == part], minlength=len(classes)) == 0)
        if len(missing):
            raise DataError(
                f"data: the groups are too large to put class {classes[missing[0]]} into {what}: make them smaller"
            )
    return assigned


def _assign_images(labels: np.ndarray, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the split of each image without groups, (N,) int64: largest-remainder quotas per class, at least 1."""
    assigned = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        exact = shares * len(rows)
        quota = np.floor(exact).astype(np.int64)
        quota[np.argsort(quota - exact, kind="stable")[: len(rows) - quota.sum()]] += 1
        while not quota.all():
            quota[quota.argmin()] += 1
            quota[quota.argmax()] -= 1
        assigned[rows] = np.repeat(np.arange(len(shares)), quota)
    return assigned


def _assign_groups(counts: np.ndarray, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Split of each group, (G,) int64: largest groups first, each into the split that needs its classes most.

    counts: (G, C), images of each group and class. If each group has one class, no split exceeds its share by more than
    the largest group.
    """
    totals, remaining = counts.sum(0), (counts > 0).sum(0)
    needed = shares[:, None] * totals  # (splits, C): images that each split still needs
    empty = np.ones(needed.shape, bool)  # (splits, C): the split has no image of the class yet
    assigned = np.empty(len(counts), np.int64)
    order = random.permutation(len(counts))
    for group in order[np.argsort(-counts[order].sum(1), kind="stable")]:
        own = np.flatnonzero(counts[group])
        score = (needed[:, own] * counts[group, own] / totals[own]).sum(1)
        urgent = own[remaining[own] <= empty[:, own].sum(0)]
        if len(urgent):  # each remaining group of these classes must fill an empty split
            score = np.where(empty[:, urgent].any(1), score, -np.inf)
        assigned[group] = score.argmax()
        needed[assigned[group]] -= counts[group]
        empty[assigned[group], own] = False
        remaining[own] -= 1
    return assigned
