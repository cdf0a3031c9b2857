"""One row an epoch: metrics, learning rate, time. Survives a kill, since it travels in the checkpoint."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from litesort.io import write_csv

KEY = "history"  # in a checkpoint


class History(pl.Callback):
    """Write `history.csv` in the run folder after each epoch, and log the throughput.

    Logged, and in each row beside all of the epoch's metrics: `train/images_per_second`, `train/seconds_per_epoch`
    (training batches only, all processes together, host clock: nothing waits for the device) and `train/lr` (largest of
    the groups, at the epoch's end). A row also has `epoch`, `step` and `seconds` (validation included).

    Attributes:
        rows: One dict of plain numbers an epoch, earlier epochs of a resumed run included.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.rows: list[dict[str, float]] = []
        self._row: dict[str, float] | None = None
        self._images = 0
        self._validated = False
        self._start = self._resume = time.perf_counter()
        self._training = 0.0

    @property
    def train_seconds(self) -> float:
        """Seconds of all epochs so far, validation included."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def images_per_second(self) -> float | None:
        """Training throughput over all epochs so far; None before the first one ended."""
        seconds = sum(row["train/seconds_per_epoch"] for row in self.rows)
        images = sum(row["train/seconds_per_epoch"] * row["train/images_per_second"] for row in self.rows)
        return images / seconds if seconds else None

    def row(self, epoch: int) -> dict[str, float]:
        """The row of an epoch, counted from 0; KeyError if there is none."""
        return {int(row["epoch"]): row for row in self.rows}[epoch]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record(trainer)  # where nothing saved the last epoch
        self._row = None
        self._images, self._training, self._validated = 0, 0.0, False
        self._start = self._resume = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch[0])
        now = time.perf_counter()
        self._training += now - self._resume
        self._resume = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = True
        self._resume = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        timing = {
            "train/images_per_second": self._images * trainer.world_size / max(self._training, 1e-9),
            "train/seconds_per_epoch": self._training,
            "train/lr": max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups),
        }
        pl_module.log_dict(timing, sync_dist=True)
        self._row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": time.perf_counter() - self._start,
            **timing,
        }

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._record(trainer)
        checkpoint[KEY] = [dict(row) for row in self.rows]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # A test loads best.ckpt, which knows the epochs up to the best one only.
        if trainer.state.fn == TrainerFn.FITTING:
            self.rows = [dict(row) for row in checkpoint.get(KEY, [])]

    def _record(self, trainer: pl.Trainer) -> None:
        """Complete the epoch's row: the module logs its own means after the callbacks' `on_train_epoch_end`."""
        if self._row is None:
            return
        metrics = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            # It still holds the validation of an earlier epoch where this one had none.
            if not key.endswith("_step") and (self._validated or not key.startswith("val/"))
        }
        row = {**metrics, **self._row}
        self.rows = [earlier for earlier in self.rows if earlier["epoch"] < row["epoch"]] + [row]
        if trainer.is_global_zero:
            first = ["epoch", "step", "seconds"]
            keys = dict.fromkeys(first) | {key: None for row in self.rows for key in row}
            write_csv(self.folder / "history.csv", self.rows, list(keys))
