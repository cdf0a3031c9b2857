"""History: one row per epoch in history.csv."""

import pytest
import pytorch_lightning as pl
from tiny_training import history_rows

from callbacks.checkpoint import RunCheckpoint
from callbacks.history import History


class FakeClock(pl.Callback):
    """Replace the clock: a training batch takes 1 s, a validation 10 s."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("callbacks.history.time.perf_counter", lambda: self.now)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now += 1

    def on_validation_start(self, trainer, pl_module):
        self.now += 10


@pytest.mark.parametrize("checkpoints", [False, True], ids=["without checkpoints", "with checkpoints"])
def test_row_holds_the_metrics_of_its_epoch(tmp_path, make_module, make_trainer, data, checkpoints):
    logged = []

    class Logged(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})

        on_train_end = on_train_epoch_start

    history = History(str(tmp_path))
    more = [RunCheckpoint(str(tmp_path))] if checkpoints else []
    make_trainer(Logged(), history, *more, epochs=3).fit(make_module(), datamodule=data)
    assert [row["epoch"] for row in history.rows] == [0, 1, 2]
    assert [row["step"] for row in history.rows] == [4, 8, 12]
    for row, expected, line in zip(history.rows, logged[1:], history_rows(tmp_path), strict=True):
        for key in ("train/loss", "val/loss", "val/f1_macro", "val/accuracy_micro", "val/f1/metal"):
            assert row[key] == expected[key] == pytest.approx(float(line[key]))
    assert len({row["train/loss"] for row in history.rows}) == 3


@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_throughput_counts_training_only(tmp_path, monkeypatch, make_module, make_trainer, data, interval):
    history = History(str(tmp_path))
    trainer = make_trainer(FakeClock(monkeypatch), history, epochs=2, val_check_interval=interval)
    trainer.fit(make_module(), datamodule=data)
    row = history.rows[1]
    assert row["train/seconds_per_epoch"] == 4
    assert row["train/images_per_second"] == 8
    assert row["seconds"] == 4 + 10 / interval
    assert history.train_seconds == 2 * row["seconds"]
    assert history.images_per_second == 8
    assert float(trainer.callback_metrics["train/images_per_second"]) == 8


def test_epochs_without_validation_have_no_validation_metrics(tmp_path, make_module, make_trainer, data):
    history = History(str(tmp_path))
    make_trainer(history, epochs=3, check_val_every_n_epoch=2).fit(make_module(), datamodule=data)
    assert ["val/loss" in row for row in history.rows] == [False, True, False]
    assert [bool(row["val/loss"]) for row in history_rows(tmp_path)] == [False, True, False]
