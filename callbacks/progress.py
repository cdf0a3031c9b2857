"""Progress bar with one switch, `trainer.enable_progress_bar`."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


def progress_bar(enabled: bool = True, refresh_rate: int = 10) -> pl.Callback:
    """Build a progress bar, or an empty callback if the bar is disabled, because Lightning then rejects a bar.

    Args:
        enabled: `enable_progress_bar` of the trainer.
        refresh_rate: Batches between two redraws.
    """
    return _Bar(refresh_rate=refresh_rate) if enabled else pl.Callback()


class _Bar(TQDMProgressBar):
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Values logged with sync_dist are reduced when they are first read, by all processes together. Lightning's bar
        # reads them in the first process only, which would wait forever in a run with several processes.
        self.get_metrics(trainer, pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        # v_num is the number of the logger's folder, which does not help during training.
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}
