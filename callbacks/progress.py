"""The progress bar, with one switch."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


def progress_bar(enabled: bool = True, refresh_rate: int = 10) -> pl.Callback:
    """Build a bar, or a callback that does nothing: Lightning refuses a bar where its trainer's switch says no.

    Args:
        enabled: The trainer's `enable_progress_bar`.
        refresh_rate: Batches between two redraws.
    """
    return _Bar(refresh_rate=refresh_rate) if enabled else pl.Callback()


class _Bar(TQDMProgressBar):
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # What callbacks logged with sync_dist is reduced when it is first read, by all processes or by none: Lightning
        # reads it for its bar in the first process only, and a run of several would wait for ever.
        self.get_metrics(trainer, pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        # v_num is the number of the logger's folder: of no use to who watches.
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}
