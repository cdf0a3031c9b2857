"""Early stopping that counts validated epochs only, and survives a resume."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from callbacks.checkpoint import was_validated


class EarlyStopping(pl.callbacks.EarlyStopping):
    """Stop when the monitored metric has not improved for `patience` validated epochs.

    Lightning's `EarlyStopping` also checks epochs without a validation: it reads an old value or raises an error. It
    trains one more epoch if a stopped run is resumed. With this class, the run stays stopped unless `patience` is
    raised. Parameters are those of Lightning. The check is at the end of a training epoch, as for the checkpoint.
    """

    def __init__(self, monitor: str, patience: int = 3, min_delta: float = 0.0, mode: str = "min", **rest: Any) -> None:
        super().__init__(
            monitor, min_delta=min_delta, patience=patience, mode=mode, check_on_train_epoch_end=True, **rest
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if was_validated(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        out_of_patience = self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED
        if self.stopped_epoch and not (out_of_patience and self.wait_count < self.patience):
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})
