"""Checkpoint callback: writes `best.ckpt` and `last.ckpt` atomically and survives a moved run folder."""

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules.checkpoint import read_checkpoint
from litesort.errors import ModelError
from litesort.io import atomic_path


def was_validated(trainer: pl.Trainer) -> bool:
    """Return whether the current epoch has a validation. If not, the logged metrics are those of an earlier epoch."""
    return (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0


class RunCheckpoint(ModelCheckpoint):
    """Save the best epoch as `best.ckpt` and the latest one as `last.ckpt` at the end of every epoch.

    Lightning's `ModelCheckpoint` differs in three points. It updates `last.ckpt` in a best epoch only. It writes
    through the system's temporary folder, which copies instead of renaming if that is another disk. It loses the best
    score if the folder has moved.

    Args:
        dirpath: The run folder.
        monitor: Logged metric that chooses the best epoch.
        mode: "max" or "min".

    Raises:
        ModelError: After the first validation if `monitor` is not logged, or at the end without a validation.
    """

    def __init__(self, dirpath: str, monitor: str = "val/f1_macro", mode: str = "max") -> None:
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            save_top_k=1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        self._fitting = False
        self._resumed_from: Path | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._fitting = stage == "fit"
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        # Lightning's setup is not called: it warns about a folder that is not empty, and a run folder is never empty.
        self.dirpath = trainer.strategy.broadcast(self.dirpath)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_global_step_saved = -1  # save each epoch, also of a linear probe, which makes no steps
        if self._should_skip_saving_checkpoint(trainer):
            return
        candidates = self._monitor_candidates(trainer)
        if was_validated(trainer):
            if self.monitor not in candidates:
                logged = ", ".join(sorted(key for key in candidates if key.startswith("val/"))) or "no validation"
                raise ModelError(f"callbacks.checkpoint.monitor={self.monitor} is not logged: expected one of {logged}")
            self._save_monitor_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.best_model_path:
            raise ModelError(
                f"no epoch was validated in {trainer.current_epoch} epochs, so there is no best epoch: lower "
                "trainer.check_val_every_n_epoch, or raise epochs or trainer.max_time"
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            exception.code = 128 + signal.SIGTERM  # without it, a stopped run exits with 0
        stopped = isinstance(exception, SIGTERMException | KeyboardInterrupt)
        if stopped and trainer.is_global_zero and self.last_model_path:
            print(f"\nstopped after {trainer.current_epoch} epochs; continue with: ckpt={self.last_model_path}")

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._resumed_from = Path(trainer.ckpt_path).parent if trainer.ckpt_path else None

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch, counted from 0, read from `best.ckpt`."""
        return int(read_checkpoint(self.best_model_path)["epoch"])

    def reset_best(self) -> None:
        """Discard the best score, so that the next epoch becomes `best.ckpt`."""
        self.best_model_path = self.kth_best_model_path = ""
        self.best_model_score = self.current_score = None
        self.kth_value = torch.tensor(torch.nan)
        self.best_k_models = {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch so far. If the run continues in another folder, its file is copied.

        The file is taken from the folder of the resumed checkpoint, not from the path that the checkpoint contains.
        """
        if not self._fitting or not state_dict["best_model_path"] or self.dirpath is None:
            return
        best = Path(self.dirpath) / f"best{self.FILE_EXTENSION}"
        if not best.exists():
            source = self._resumed_from and self._resumed_from / best.name
            if source is None or not source.exists():
                return  # without the file, the next epoch becomes the best one
            with atomic_path(best) as temporary:
                shutil.copyfile(source, temporary)
        score = state_dict["best_model_score"]
        self.best_model_path = self.kth_best_model_path = str(best)
        self.best_model_score = self.kth_value = self.current_score = score
        self.best_k_models = {str(best): score}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a temporary file, then rename it: a reader sees the old file or the new one, never a part."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        target = Path(path)
        with atomic_path(target, one_writer=True) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:
                if shutil.disk_usage(target.parent).free > 1 << 16:  # measured while the unfinished file is there
                    raise
                # torch raises a RuntimeError that does not name the reason
                raise OSError(errno.ENOSPC, "the disk is full", str(target)) from error
