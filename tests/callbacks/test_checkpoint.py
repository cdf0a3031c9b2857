"""RunCheckpoint: best.ckpt and last.ckpt, also after a kill or a resume."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from tiny_training import Scores, history_rows

from callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoint
from callbacks.ema import EMA
from callbacks.history import History
from callbacks.reseed import Reseed
from litesort.errors import ModelError

ROOT = Path(__file__).parents[2]


def run_callbacks(folder, *more):
    return [History(str(folder)), RunCheckpoint(str(folder)), Reseed(seed=3), *more]


def read(path):
    return torch.load(path, weights_only=True)


class Interrupt(pl.Callback):
    """Raise an exception in the middle of an epoch, which stops the run as a kill would."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 2:
            raise InterruptedError


def test_unknown_monitor_is_an_error_after_the_first_epoch(tmp_path, make_module, make_trainer, data):
    trainer = make_trainer(RunCheckpoint(str(tmp_path), monitor="val/f2"), epochs=3)
    with pytest.raises(ModelError, match=r"monitor=val/f2 is not logged: expected one of .*val/f1_macro"):
        trainer.fit(make_module(), datamodule=data)
    assert trainer.current_epoch == 0


def test_run_without_validation_is_an_error(tmp_path, make_module, make_trainer, data):
    trainer = make_trainer(RunCheckpoint(str(tmp_path)), epochs=1, check_val_every_n_epoch=2)
    with pytest.raises(ModelError, match="no epoch was validated"):
        trainer.fit(make_module(), datamodule=data)


def test_last_ckpt_is_the_latest_epoch_and_best_ckpt_the_best(tmp_path, make_module, make_trainer, data):
    checkpoint = RunCheckpoint(str(tmp_path), monitor="score")
    make_trainer(Scores(0.2, 0.7, 0.4), checkpoint).fit(make_module(), datamodule=data)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt*")) == ["best.ckpt", "last.ckpt"]
    assert read(tmp_path / "best.ckpt")["epoch"] == 1
    assert read(tmp_path / "last.ckpt")["epoch"] == 2
    assert float(checkpoint.best_model_score) == pytest.approx(0.7)


def test_epochs_without_validation_are_saved_but_cannot_be_the_best(tmp_path, make_module, make_trainer, data):
    trainer = make_trainer(
        Scores(0, 0.5, 0), RunCheckpoint(str(tmp_path), "score"), epochs=3, check_val_every_n_epoch=2
    )
    trainer.fit(make_module(), datamodule=data)
    assert read(tmp_path / "best.ckpt")["epoch"] == 1
    assert read(tmp_path / "last.ckpt")["epoch"] == 2


@pytest.mark.parametrize("averaged", [False, True])
def test_resumed_run_equals_an_uninterrupted_run(tmp_path, make_module, make_trainer, data, averaged):
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"

    def more():
        return [EMA(0.9)] if averaged else []

    make_trainer(*run_callbacks(whole, *more()), epochs=4).fit(make_module(), datamodule=data)
    with pytest.raises(InterruptedError):
        make_trainer(*run_callbacks(interrupted, *more()), Interrupt(2), epochs=4).fit(make_module(), datamodule=data)
    assert read(interrupted / "last.ckpt")["epoch"] == 1
    resumed = run_callbacks(interrupted, *more())
    torch.manual_seed(99)
    make_trainer(*resumed, epochs=4).fit(
        make_module(seed=5), datamodule=data, ckpt_path=interrupted / "last.ckpt", weights_only=True
    )

    for name in ("last.ckpt", "best.ckpt"):
        expected, got = read(whole / name), read(interrupted / name)
        assert expected["epoch"] == got["epoch"]
        for key in ("state_dict", "current_model_state") if averaged else ("state_dict",):
            torch.testing.assert_close(got[key], expected[key], rtol=0, atol=0)
    timing = {"seconds", "train/seconds_per_epoch", "train/images_per_second"}
    expected, got = (
        [{k: v for k, v in row.items() if k not in timing} for row in history_rows(folder)]
        for folder in (whole, interrupted)
    )
    assert got == expected
    assert [row["epoch"] for row in got] == ["0", "1", "2", "3"]
    assert all(row["train/loss"] and row["val/f1_macro"] for row in got)


@pytest.mark.parametrize("moved", [False, True])
def test_best_epoch_survives_a_resume_in_another_folder(tmp_path, make_module, make_trainer, data, moved):
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(InterruptedError):
        make_trainer(Scores(0.9, 0.1, 0.2), RunCheckpoint(str(first), "score"), Interrupt(1)).fit(
            make_module(), datamodule=data
        )
    if moved:
        first = first.rename(tmp_path / "elsewhere")
    checkpoint = RunCheckpoint(str(second), "score")
    trainer = make_trainer(Scores(0.9, 0.1, 0.2), checkpoint)
    trainer.fit(make_module(), datamodule=data, ckpt_path=first / "last.ckpt", weights_only=True)
    assert float(checkpoint.best_model_score) == pytest.approx(0.9)
    assert Path(checkpoint.best_model_path) == second / "best.ckpt"
    assert read(second / "best.ckpt")["epoch"] == 0
    assert read(second / "last.ckpt")["epoch"] == 2


def test_deleted_best_ckpt_is_replaced_by_the_next_epoch(tmp_path, make_module, make_trainer, data):
    with pytest.raises(InterruptedError):
        make_trainer(Scores(0.9, 0.1), RunCheckpoint(str(tmp_path), "score"), Interrupt(1)).fit(
            make_module(), datamodule=data
        )
    (tmp_path / "best.ckpt").unlink()
    make_trainer(Scores(0.9, 0.1), RunCheckpoint(str(tmp_path), "score"), epochs=2).fit(
        make_module(), datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert read(tmp_path / "best.ckpt")["epoch"] == 1


def test_failed_write_keeps_the_old_file(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match=r"pickle|local object"):
        AtomicCheckpointIO().save_checkpoint({"a": lambda: None}, tmp_path / "last.ckpt")
    assert read(tmp_path / "last.ckpt") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_full_disk_raises_os_error_and_keeps_the_old_file(tmp_path, monkeypatch):
    AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "last.ckpt")

    def fail(checkpoint, path):
        path.write_bytes(b"partial")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", fail)
        with pytest.raises(RuntimeError, match="PytorchStreamWriter"):  # the disk has space: the error is unchanged
            AtomicCheckpointIO().save_checkpoint({"a": 2}, tmp_path / "last.ckpt")
        patched.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
        with pytest.raises(OSError, match=r"the disk is full: .*last\.ckpt"):
            AtomicCheckpointIO().save_checkpoint({"a": 2}, tmp_path / "last.ckpt")
    assert read(tmp_path / "last.ckpt") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_last_checkpoint_loads_after_a_kill_at_any_moment(tmp_path):
    script = tmp_path / "save.py"
    script.write_text(
        textwrap.dedent("""
            import itertools, sys, torch
            from callbacks.checkpoint import AtomicCheckpointIO
            io = AtomicCheckpointIO()
            weights = torch.zeros(1_000_000)
            for epoch in itertools.count():
                io.save_checkpoint({"epoch": epoch, "weights": weights + epoch}, sys.argv[1])
                print(epoch, flush=True)
        """)
    )
    target = tmp_path / "last.ckpt"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(
        [sys.executable, script, target], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert job.stdout is not None
    job.stdout.readline()
    delays = random.Random(0)
    for _ in range(20):  # SIGSTOP at a random moment: the file now is the file that a kill would leave
        time.sleep(delays.uniform(0.001, 0.02))
        job.send_signal(signal.SIGSTOP)
        saved = read(target)
        assert (saved["weights"] == saved["epoch"]).all()
        job.send_signal(signal.SIGCONT)
    job.kill()
    job.communicate()
    saved = read(target)
    assert (saved["weights"] == saved["epoch"]).all()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_signal_sets_the_exit_status_and_prints_how_to_resume(
    tmp_path, capsys, make_module, make_trainer, data, number, status
):
    class Signal(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1:
                os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stopped:
            make_trainer(RunCheckpoint(str(tmp_path)), Signal()).fit(make_module(), datamodule=data)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves SIGINT ignored
    assert stopped.value.code == status
    assert f"stopped after 1 epochs; continue with: ckpt={tmp_path / 'last.ckpt'}" in capsys.readouterr().out
    assert read(tmp_path / "last.ckpt")["epoch"] == 0


def test_path_stored_in_a_checkpoint_is_not_copied(tmp_path):
    private = tmp_path / "private"
    private.write_text("secret")
    checkpoint = RunCheckpoint(str(tmp_path / "run"))
    checkpoint._fitting = True
    checkpoint.load_state_dict({"best_model_path": str(private), "best_model_score": torch.tensor(1.0)})
    assert not (tmp_path / "run").exists()
    assert not checkpoint.best_model_path
