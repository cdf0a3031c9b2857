"""Graceful stop: Ctrl-C ends the run after the current epoch, a second Ctrl-C ends it at once."""

import signal
import threading
from typing import Any

import pytorch_lightning as pl


class GracefulStop(pl.Callback):
    """End the run after the current epoch at the first SIGINT. `last.ckpt` is then complete, so a resume is exact.

    Raises:
        KeyboardInterrupt: After the epoch, or at once at the second SIGINT.
    """

    def __init__(self) -> None:
        self._requested = self._failed = False
        self._old_handler: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._failed = False
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGINT, self._on_signal)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._failed = True  # no teardown follows, and Lightning then restores this handler

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._failed:
            self._old_handler = self._old_handler or signal.default_int_handler  # `_restore` has cleared it
            self._restore()
            signal.raise_signal(number)
            return
        self._requested = True
        self._restore()  # the next signal stops at once
        print("\nstopping after this epoch; Ctrl-C again stops now", flush=True)

    def _stop(self, trainer: pl.Trainer) -> None:
        # The processes of a run get the signal at different moments, so they decide together.
        if trainer.strategy.reduce_boolean_decision(self._requested, all=False):
            raise KeyboardInterrupt

    def _restore(self) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGINT, self._old_handler)
            self._old_handler = None
