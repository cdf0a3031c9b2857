"""GracefulStop: one or two SIGINT (Ctrl-C) during training, sent by a callback."""

import os
import signal

import pytest
import pytorch_lightning as pl
import torch

from callbacks.checkpoint import RunCheckpoint
from callbacks.graceful_stop import GracefulStop


class Interrupt(pl.Callback):
    def __init__(self, epoch, times):
        self.epoch, self.times = epoch, times

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("epoch", "times", "epochs"), [(1, 1, 2), (1, 2, 1), (2, 1, 3)])
def test_first_ctrl_c_completes_the_epoch_and_second_stops_at_once(
    tmp_path, capsys, make_module, make_trainer, data, epoch, times, epochs
):
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            make_trainer(RunCheckpoint(str(tmp_path)), GracefulStop(), Interrupt(epoch, times)).fit(
                make_module(), datamodule=data
            )
        with pytest.raises(KeyboardInterrupt):  # the run has restored the handler, so a later job of a sweep stops
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == epochs - 1
    assert "stopping after this epoch" in capsys.readouterr().out


def test_signal_handler_is_restored_after_a_run(tmp_path, make_module, make_trainer, data):
    before = signal.getsignal(signal.SIGINT)
    make_trainer(GracefulStop(), epochs=1).fit(make_module(), datamodule=data)
    assert signal.getsignal(signal.SIGINT) is before
