"""Reseed torch in each epoch, so that a resumed run draws the same random numbers."""

import hashlib
from typing import Any

import pytorch_lightning as pl
import torch


class Reseed(pl.Callback):
    """Seed torch at the first batch of each epoch. Dropout of a resumed run then equals that of an uninterrupted run.

    Args:
        seed: Seed of the run; each epoch and rank has its own stream.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Seeding at the start of the epoch would be too early: a DataLoader then draws a number, except in the first
        # epoch after a resume.
        if batch_idx == 0:
            torch.manual_seed(derive_seed(self.seed, trainer.current_epoch, trainer.global_rank))


def derive_seed(*numbers: int) -> int:
    """Hash integers to one integer in [0, 2**63), equal on every machine.

    Example:
        >>> derive_seed(0, 1, 0) == derive_seed(0, 1, 0) != derive_seed(0, 0, 1)
        True
    """
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
