"""Split settings: assign each image of a source to train, val or test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.sources.base import Sample
from datamodules.splits import split as splitting
from datamodules.splits.groups import group_ids
from litesort.errors import DataError

DUPLICATES = "duplicates"


@dataclass(frozen=True)
class SplitConfig:
    """Settings of a split: fractions, k-fold or predefined folders, with optional groups.

    Attributes:
        val_fraction, test_fraction: Share of all images in val and in test, in (0, 1). If the source defines some
            splits, the missing ones are drawn from its training images, and the share is of these.
        fold, folds: k-fold cross-validation: test on fold `fold` (from 0) of `folds`. `test_fraction` is not used then.
        group_by: Images of one group stay in one split. A regular expression on the path (equal captures form a group),
            "duplicates" (see `quality.duplicates`), or a list of these.
        group_block: The last captured number is divided by this and rounded down, so that neighbouring numbers share a
            group.
        seed: Seed of the split.
        class_fraction: Class name -> share of its training images that is used, in (0, 1]. Other classes are complete.
        new_images: What to do with images that a stored split does not contain, if the others are the run's own images.
            "exclude" leaves them out. "train" adds them to the training set, except for images of a group in val or
            test.
    """

    val_fraction: float = 0.15
    test_fraction: float = 0.15
    fold: int | None = None
    folds: int | None = None
    group_by: str | Sequence[str] | None = None
    group_block: int | None = None
    seed: int = 0
    class_fraction: Mapping[str, float] | None = None
    new_images: Literal["exclude", "train"] = "exclude"

    @property
    def group_rules(self) -> list[str]:
        """The grouping rules as a list."""
        return [self.group_by] if isinstance(self.group_by, str) else list(self.group_by or [])

    @property
    def by_similarity(self) -> bool:
        """Whether duplicates stay in one split."""
        return DUPLICATES in self.group_rules

    def groups(self, samples: Sequence[Sample], duplicate_ids: np.ndarray | None) -> np.ndarray:
        """Return the group of each sample, (N,) int64. Samples of one group stay in one split.

        Args:
            samples: N samples.
            duplicate_ids: (N,) int64, equal for duplicates. Only used if `by_similarity`.
        """
        patterns = [rule for rule in self.group_rules if rule != DUPLICATES]
        names, paths = [sample.group for sample in samples], [sample.path for sample in samples]
        return group_ids(paths, patterns, self.group_block, names, duplicate_ids if self.by_similarity else None)

    def split(
        self, samples: Sequence[Sample], labels: np.ndarray, classes: Sequence[str], duplicate_ids: np.ndarray | None
    ) -> tuple[splitting.Indices, list[str]]:
        """Split samples into train, val and test.

        Args:
            samples: N samples.
            labels: (N,) int64. Every class needs an image.
            classes: Name of each label.
            duplicate_ids: (N,) int64, equal for duplicates. Required if `by_similarity`.

        Returns:
            Indices into `samples` for each split, and messages for the user.

        Raises:
            DataError: The settings do not fit the images.
        """
        groups = self.groups(samples, duplicate_ids)
        chosen, notes = splitting.plan_split(
            labels,
            groups,
            classes,
            [sample.split for sample in samples],
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            fold=self.fold,
            folds=self.folds,
            seed=self.seed,
        )
        chosen["train"] = apply_class_fraction(chosen["train"], labels, classes, self.class_fraction or {}, self.seed)
        return chosen, notes


def apply_class_fraction(
    rows: np.ndarray, labels: np.ndarray, classes: Sequence[str], class_fraction: Mapping[str, float], seed: int
) -> np.ndarray:
    """Reduce some classes to a share of their training images; at least one image of each class remains.

    Args:
        rows: (n,) int64, training rows.
        labels: (N,) int64, labels of all samples.
        classes: Name of each label.
        class_fraction: Class name -> share in (0, 1].
        seed: Seed of the choice.

    Returns:
        (m,) int64, the remaining rows, sorted.

    Raises:
        DataError: A class is unknown, or a share is outside of (0, 1].

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> apply_class_fraction(np.arange(8), labels, ["can", "bag"], {"can": 0.25}, seed=0).tolist()[1:]
    [4, 5, 6, 7]
    """
    random = np.random.default_rng([seed, 1])
    for name, share in class_fraction.items():
        if name not in classes:
            raise DataError(f"data.class_fraction names {name:.50}, expected one of {', '.join(classes):.200}")
        if not 0 < share <= 1:
            raise DataError(
                f"data.class_fraction={{{name}: {share}}} is invalid: expected a number above 0 and up to 1"
            )
        own = rows[labels[rows] == list(classes).index(name)]
        removed = random.permutation(own)[max(1, round(share * len(own))) :]
        rows = np.setdiff1d(rows, removed)
    return rows
