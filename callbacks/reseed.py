"""Random numbers that depend on the epoch, not on how the run got there."""

import hashlib

import pytorch_lightning as pl
import torch


class Reseed(pl.Callback):
    """Seed torch at each epoch's start, so that a resumed run draws the dropout of one that was never interrupted.

    Args:
        seed: The run's seed; each epoch and rank gets a stream of its own.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.manual_seed(mix(self.seed, trainer.current_epoch, trainer.global_rank))


def mix(*numbers: int) -> int:
    """Hash integers to one in [0, 2**63), the same on every machine.

    Example:
        >>> mix(0, 1, 0) == mix(0, 1, 0) != mix(0, 0, 1)
        True
    """
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
