"""best.ckpt and last.ckpt, also after kills and resumes."""

import csv
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

from callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoint
from callbacks.ema import EMA
from callbacks.history import History
from callbacks.reseed import Reseed
from litesort.errors import ModelError

ROOT = Path(__file__).parents[2]


def watch(folder, *more):
    return [History(str(folder)), RunCheckpoint(str(folder)), Reseed(seed=3), *more]


def read(path):
    return torch.load(path, weights_only=True)


def rows(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


class Scores(pl.Callback):
    """Log the given scores instead of the network's."""

    def __init__(self, *scores):
        self.scores = scores

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("score", self.scores[trainer.current_epoch])


class StopAfter(pl.Callback):
    """Raise in the middle of an epoch, in place of a kill."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 2:
            raise InterruptedError


def test_metric_that_is_not_logged_is_named_after_the_first_epoch(tmp_path, make_module, make_trainer, data):
    trainer = make_trainer(RunCheckpoint(str(tmp_path), monitor="val/f2"), epochs=3)
    with pytest.raises(ModelError, match=r"monitor=val/f2 is not logged: expected one of .*val/f1_macro"):
        trainer.fit(make_module(), datamodule=data)
    assert trainer.current_epoch == 0


def test_run_without_validation_is_an_error(tmp_path, make_module, make_trainer, data):
    trainer = make_trainer(RunCheckpoint(str(tmp_path)), epochs=1, check_val_every_n_epoch=2)
    with pytest.raises(ModelError, match="no epoch was validated"):
        trainer.fit(make_module(), datamodule=data)


def test_last_is_the_latest_epoch_and_best_the_best(tmp_path, make_module, make_trainer, data):
    checkpoint = RunCheckpoint(str(tmp_path), monitor="score")
    make_trainer(Scores(0.2, 0.7, 0.4), checkpoint).fit(make_module(), datamodule=data)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt*")) == ["best.ckpt", "last.ckpt"]
    assert read(tmp_path / "best.ckpt")["epoch"] == 1
    assert read(tmp_path / "last.ckpt")["epoch"] == 2
    assert float(checkpoint.best_model_score) == pytest.approx(0.7)


def test_epochs_without_validation_are_saved_but_cannot_be_the_best(tmp_path, make_module, make_trainer, data):
    trainer = make_trainer(
        Scores(0, 0.5, 0, 0.4), RunCheckpoint(str(tmp_path), "score"), epochs=3, check_val_every_n_epoch=2
    )
    trainer.fit(make_module(), datamodule=data)
    assert read(tmp_path / "best.ckpt")["epoch"] == 1
    assert read(tmp_path / "last.ckpt")["epoch"] == 2


@pytest.mark.parametrize("averaged", [False, True])
def test_a_resumed_run_equals_one_that_was_not_interrupted(tmp_path, make_module, make_trainer, data, averaged):
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def more():
        return [EMA(0.9)] if averaged else []

    make_trainer(*watch(whole, *more()), epochs=4).fit(make_module(), datamodule=data)
    with pytest.raises(InterruptedError):
        make_trainer(*watch(broken, *more()), StopAfter(2), epochs=4).fit(make_module(), datamodule=data)
    assert read(broken / "last.ckpt")["epoch"] == 1
    resumed = watch(broken, *more())
    torch.manual_seed(99)
    make_trainer(*resumed, epochs=4).fit(
        make_module(seed=5), datamodule=data, ckpt_path=broken / "last.ckpt", weights_only=True
    )

    for name in ("last.ckpt", "best.ckpt"):
        expected, got = read(whole / name), read(broken / name)
        assert expected["epoch"] == got["epoch"]
        for part in ("state_dict", "current_model_state") if averaged else ("state_dict",):
            torch.testing.assert_close(got[part], expected[part], rtol=0, atol=0)
    timing = {"seconds", "train/seconds_per_epoch", "train/images_per_second"}
    plain = [[{k: v for k, v in row.items() if k not in timing} for row in rows(f)] for f in (whole, broken)]
    assert plain[0] == plain[1]
    assert [row["epoch"] for row in plain[1]] == ["0", "1", "2", "3"]
    assert all(row["train/loss"] and row["val/f1_macro"] for row in plain[1])


@pytest.mark.parametrize("moved", [False, True])
def test_the_best_epoch_survives_a_resume_into_another_folder(tmp_path, make_module, make_trainer, data, moved):
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(InterruptedError):
        make_trainer(Scores(0.9, 0.1, 0.2), RunCheckpoint(str(first), "score"), StopAfter(1)).fit(
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


def test_a_deleted_best_is_replaced_by_the_next_epoch(tmp_path, make_module, make_trainer, data):
    with pytest.raises(InterruptedError):
        make_trainer(Scores(0.9, 0.1), RunCheckpoint(str(tmp_path), "score"), StopAfter(1)).fit(
            make_module(), datamodule=data
        )
    (tmp_path / "best.ckpt").unlink()
    make_trainer(Scores(0.9, 0.1), RunCheckpoint(str(tmp_path), "score"), epochs=2).fit(
        make_module(), datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert read(tmp_path / "best.ckpt")["epoch"] == 1


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match=r"pickle|local object"):
        AtomicCheckpointIO().save_checkpoint({"a": lambda: None}, tmp_path / "last.ckpt")
    assert read(tmp_path / "last.ckpt") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "last.ckpt")

    def full(checkpoint, path):
        path.write_bytes(b"begun")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(RuntimeError, match="PytorchStreamWriter"):  # of another kind: its state is dropped
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
    for _ in range(20):  # stopped at a random moment, what a reader sees is what a kill would leave
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
        with pytest.raises(SystemExit) as ended:
            make_trainer(RunCheckpoint(str(tmp_path)), Signal()).fit(make_module(), datamodule=data)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    assert ended.value.code == status
    assert f"stopped after 1 epochs; continue with: ckpt={tmp_path / 'last.ckpt'}" in capsys.readouterr().out
    assert read(tmp_path / "last.ckpt")["epoch"] == 0


def test_best_model_path_of_a_checkpoint_is_not_copied(tmp_path):
    private = tmp_path / "private"
    private.write_text("a key")
    checkpoint = RunCheckpoint(str(tmp_path / "run"))
    checkpoint._fitting = True
    checkpoint.load_state_dict({"best_model_path": str(private), "best_model_score": torch.tensor(1.0)})
    assert not (tmp_path / "run").exists()
    assert not checkpoint.best_model_path
