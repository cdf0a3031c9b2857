"""Random numbers that depend on the epoch, not on how the run got there."""

import hashlib
from typing import Any

import pytorch_lightning as pl
import torch


class Reseed(pl.Callback):
    """Seed torch at each epoch's first batch, so that a resumed run draws the dropout of one that was not interrupted.

    Args:
        seed: The run's seed; each epoch and rank gets a stream of its own.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Not at the epoch's start: a DataLoader draws a number too, before that in the first epoch after a resume and
        # after it in all others.
        if batch_idx == 0:
            torch.manual_seed(mix(self.seed, trainer.current_epoch, trainer.global_rank))


def mix(*numbers: int) -> int:
    """Hash integers to one in [0, 2**63), the same on every machine.

    Example:
        >>> mix(0, 1, 0) == mix(0, 1, 0) != mix(0, 0, 1)
        True
    """
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
