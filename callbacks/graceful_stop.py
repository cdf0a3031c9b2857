"""Ctrl-C once: the running epoch is finished and saved. Twice: stop now."""

import signal
import threading
from typing import Any

import pytorch_lightning as pl


class StopAfterEpoch(pl.Callback):
    """Let the first SIGINT end the run where it can go on exactly: after the epoch, when `last.ckpt` is written.

    Raises:
        KeyboardInterrupt: After that epoch; at once at the second SIGINT.
    """

    def __init__(self) -> None:
        self._asked = self._over = False
        self._before: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._over = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._over = True  # no teardown follows, and Lightning puts its handlers, this one, back after it

    def _ask(self, number: int, frame: Any) -> None:
        if self._over:
            self._restore()
            signal.raise_signal(number)
            return
        self._asked = True
        self._restore()  # the next one is meant
        print("\nstopping after this epoch; Ctrl-C again stops now", flush=True)

    def _stop(self, trainer: pl.Trainer) -> None:
        # All processes of a run get the signal, but not at the same moment.
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            raise KeyboardInterrupt

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
