"""How the photos of a source are told off to train, val and test, as the settings of a data module ask for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.sources.base import Sample
from datamodules.splits import split as splitting
from datamodules.splits.groups import group_ids
from litesort.errors import DataError

DUPLICATES = "duplicates"


@dataclass(frozen=True)
class SplitConfig:
    """The settings of a split; see `ImageDataModule`, which takes them under the same names."""

    val_fraction: float = 0.15
    test_fraction: float = 0.15
    fold: int | None = None
    folds: int | None = None
    group_by: str | Sequence[str] | None = None
    group_block: int | None = None
    seed: int = 0
    class_fraction: Mapping[str, float] | None = None

    @property
    def ways(self) -> list[str]:
        """What photos are grouped by, as a list."""
        return [self.group_by] if isinstance(self.group_by, str) else list(self.group_by or [])

    @property
    def by_similarity(self) -> bool:
        """Whether photos that show the same are to stay together."""
        return DUPLICATES in self.ways

    def groups(self, samples: Sequence[Sample], duplicate_ids: np.ndarray | None) -> np.ndarray:
        """Group of each sample, (N,) int64: equal where two must stay on one side; twins: as in `split`."""
        patterns = [way for way in self.ways if way != DUPLICATES]
        names, paths = [sample.group for sample in samples], [sample.path for sample in samples]
        return group_ids(paths, patterns, self.group_block, names, duplicate_ids if self.by_similarity else None)

    def split(
        self, samples: Sequence[Sample], labels: np.ndarray, classes: Sequence[str], duplicate_ids: np.ndarray | None
    ) -> tuple[splitting.Indices, list[str]]:
        """Places in `samples` of train, val and test, and lines that the user should read.

        labels: (N,) int64, each class having a photo; twins: (N,) int64, equal for photos that show the same, needed
        where `by_similarity`.

        Raises:
            DataError: the settings do not fit the photos.
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
        chosen["train"] = thinned(chosen["train"], labels, classes, self.class_fraction or {}, self.seed)
        return chosen, notes


def thinned(
    rows: np.ndarray, labels: np.ndarray, classes: Sequence[str], class_fraction: Mapping[str, float], seed: int
) -> np.ndarray:
    """The training rows (n,) int64 with a share of some classes alone, at least one photo of each.

    >>> thinned(np.arange(8), np.array([0, 0, 0, 0, 1, 1, 1, 1]), ["can", "bag"], {"can": 0.25}, seed=0).tolist()[1:]
    [4, 5, 6, 7]
    """
    random = np.random.default_rng([seed, 1])
    for name, share in class_fraction.items():
        if name not in classes:
            raise DataError(
                f"data.class_fraction names {name:.50}, which is none of {', '.join(classes):.200}: correct the name"
            )
        if not 0 < share <= 1:
            raise DataError(f"data.class_fraction={{{name}: {share}}} must be a share above 0 and up to 1, e.g. 0.2")
        own = rows[labels[rows] == list(classes).index(name)]
        left = random.permutation(own)[max(1, round(share * len(own))) :]
        rows = np.setdiff1d(rows, left)
    return rows
