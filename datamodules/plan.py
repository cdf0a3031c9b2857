"""Which photos make up which batch: what the loaders with and without a cache have in common."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from datamodules import DataError
from datamodules.batch import Batch
from datamodules.samplers import Sampler

Draw = Callable[[np.ndarray], Any]  # keys (B,) uint64 -> what the augmentation will do to each image


class Plan:
    """The batches of an epoch, and the draws that go with them; as many on every rank.

    Args:
        labels: (N,) class indices of all samples.
        rows: (n,) the samples of this split.
        sampler: made of `labels[rows]`; its places count in `rows`.
        batch_size: photos a batch of this rank.
        drop_last: leave out the last batch where it is not full, unless it is the only one.
        draw: `Augment.draw` in training, else None.
    """

    batch_sampler = None  # Lightning looks for one where there is a sampler

    def __init__(
        self,
        labels: np.ndarray,
        rows: np.ndarray,
        sampler: Sampler,
        batch_size: int,
        drop_last: bool,
        draw: Draw | None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"data.batch_size={batch_size} is not a size: use 1 or more")
        self.labels = np.asarray(labels, dtype=np.int64)
        self.rows = np.asarray(rows, dtype=np.int64)
        self.sampler, self.batch_size, self.drop_last, self.draw = sampler, batch_size, drop_last, draw

    def __len__(self) -> int:
        """Number of batches an epoch, the same on every rank."""
        steps = self.sampler.longest / self.batch_size
        return max(1, int(steps)) if self.drop_last else int(np.ceil(steps))

    def batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the batches of the present epoch: rows of the samples (B,) int64 and keys (B,) uint64."""
        rows, keys = self.rows[self.sampler.order()], self.sampler.keys()
        cuts = np.minimum(np.arange(len(self) + 1) * self.batch_size, len(rows))
        if len(cuts) > 2 and cuts[-1] == cuts[-2] and self.batch_size > 1:
            cuts[-2] -= 1  # this rank's share is the shorter one: it gives the last step one photo of the step before
        spans = [slice(start, stop) for start, stop in itertools.pairwise(cuts)]
        if len(rows) and spans and spans[-1].start == spans[-1].stop:
            spans[-1] = slice(len(rows) - 1, len(rows))  # batches of one photo: the last is seen twice
        return [(rows[span], keys[span]) for span in spans]

    def batch(self, pixels: torch.Tensor, rows: np.ndarray, keys: np.ndarray, pin: bool) -> Batch:
        """Put labels and draws beside the pixels (B, S, S, 3) uint8 of `rows` (B,)."""
        targets, indices = torch.from_numpy(self.labels[rows]), torch.from_numpy(rows)
        draws = self.draw(keys) if self.draw else None
        if pin:
            targets, indices = targets.pin_memory(), indices.pin_memory()
            if draws is not None and hasattr(draws, "pin_memory"):
                draws = draws.pin_memory()
        return Batch(pixels, targets, indices, draws)
