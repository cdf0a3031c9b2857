"""History of a run: one row per epoch with metrics, learning rate and time. Checkpoints carry it to a resumed run."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from litesort.io import write_csv

KEY = "history"  # key in a checkpoint


class History(pl.Callback):
    """Write `history.csv` in the run folder after each epoch, and log the throughput.

    A row holds all metrics of the epoch and three values that are also logged: `train/images_per_second` and
    `train/seconds_per_epoch` (training batches of all processes, host clock without device synchronisation), and
    `train/lr` (largest of the parameter groups, at the end of the epoch). A row also has `epoch`, `step` and `seconds`
    (validation included).

    Attributes:
        rows: One dict of plain numbers per epoch, earlier epochs of a resumed run included.

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
        """Training throughput over all epochs so far; None before the end of the first one."""
        seconds = sum(row["train/seconds_per_epoch"] for row in self.rows)
        images = sum(row["train/seconds_per_epoch"] * row["train/images_per_second"] for row in self.rows)
        return images / seconds if seconds else None

    def row(self, epoch: int) -> dict[str, float]:
        """Return the row of an epoch, counted from 0. A missing row raises KeyError."""
        return {int(row["epoch"]): row for row in self.rows}[epoch]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record(trainer)  # the previous epoch, if no checkpoint was saved after it
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
            "train/lr": max(
                (group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups), default=0.0
            ),
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
        # A test loads best.ckpt, whose history ends at the best epoch.
        if trainer.state.fn == TrainerFn.FITTING:
            self.rows = [dict(row) for row in checkpoint.get(KEY, [])]

    def _record(self, trainer: pl.Trainer) -> None:
        """Complete the row of the epoch: the module logs its means after the callbacks' `on_train_epoch_end`."""
        if self._row is None:
            return
        metrics = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            # Without a validation in this epoch, `val/` metrics are those of an earlier epoch.
            if not key.endswith("_step") and (self._validated or not key.startswith("val/"))
        }
        row = {**metrics, **self._row}
        self.rows = [earlier for earlier in self.rows if earlier["epoch"] < row["epoch"]] + [row]
        if trainer.is_global_zero:
            first = ["epoch", "step", "seconds"]
            keys = dict.fromkeys(first) | {key: None for row in self.rows for key in row}
            write_csv(self.folder / "history.csv", self.rows, list(keys))
