"""Training from images to an evaluated model, with tiny networks and images."""

import csv
import functools
import io
import json
import os
import signal
import time
from contextlib import redirect_stdout
from pathlib import Path

import entry_points
import pytest
import pytorch_lightning as pl
import torch
from configs import QUICK_LATENCY, TINY_RUN, composed
from entry_points import run_all
from tiny_training import history_rows

from lightning_modules.checkpoint import load_net
from lightning_modules.classifier import ImageClassifier
from lightning_modules.objectives.base import CrossEntropy
from lightning_modules.optim import configure_optimizer
from litesort.cli.build import load_data
from train import train

TINY = (*TINY_RUN, "epochs=3", "trainer.log_every_n_steps=2")


def configured(folder: Path, image_folder: Path, *overrides: str):
    """The config of a tiny run in `folder`."""
    return composed("train", *TINY, f"data.root={image_folder}", f"run_dir={folder}", *overrides)


run = functools.partial(entry_points.run, "train.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, image_folder):
    """One finished run: its folder, its returned values and its output."""
    folder = tmp_path_factory.mktemp("run")
    with redirect_stdout(printed := io.StringIO()):
        results = train(configured(folder, image_folder))
    return folder, results, printed.getvalue()


def test_run_writes_all_files_and_metrics(finished):
    folder, results, printed = finished
    for name in (
        "best.ckpt",
        "last.ckpt",
        "config.yaml",
        "metrics.json",
        "predictions.csv",
        "confusion.png",
        "reliability.png",
        "history.csv",
    ):
        assert (folder / name).stat().st_size > 0, name
        assert f"/{name}\n" in printed, "the path is printed"
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored["status"] == "completed"
    assert stored["test/f1_macro"] == pytest.approx(results["test/f1_macro"])
    assert {
        "params",
        "macs",
        "latency_ms",
        "score",
        "precision",
        "versions",
        "seed",
        "epochs",
        "train_seconds",
    } <= stored.keys()
    assert stored["precision"] == "32-true"
    assert stored["precision_requested"] == "auto"


def test_best_epoch_is_reported_for_any_monitor(finished, image_folder, tmp_path):
    def row(folder, epoch):
        return next(row for row in history_rows(folder) if int(row["epoch"]) == epoch)

    by_loss = ("callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint.mode=min", "mistakes=0")
    for folder, results in (finished[:2], (tmp_path, train(configured(tmp_path, image_folder, *by_loss)))):
        f1 = float(row(folder, results["best_epoch"])["val/f1_macro"])
        assert results["val/f1_macro"] == pytest.approx(f1, abs=1e-6)
    assert (finished[1]["monitor"], results["monitor"]) == ("val/f1_macro", "val/loss")
    assert results["best_epoch"] == torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"]


def test_trainer_test_equals_evaluation(finished, tmp_path):
    folder, results, _ = finished
    net, card = load_net(folder / "best.ckpt")
    cfg = composed("evaluate", f"ckpt={folder / 'best.ckpt'}", f"run_dir={tmp_path}")
    data, split, _ = load_data(card, cfg)
    assert split == "test"
    module = ImageClassifier(net, CrossEntropy(), functools.partial(configure_optimizer), card["classes"])
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet)
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    names = {key for key in tested if key != "test/loss"}
    assert {"test/f1_macro", "test/accuracy_micro", "test/auroc_macro", "test/ece", "test/f1/cup"} <= names
    for key in names:
        assert tested[key] == pytest.approx(results[key], abs=1e-6), key


def test_predictions_have_each_test_image_once(finished, image_folder):
    folder, results, _ = finished
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == len(rows) == results["images"]
    assert all((image_folder / row["file"]).is_file() for row in rows)
    for row in rows:
        probabilities = {name: float(row[f"p_{name}"]) for name in results["classes"]}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert row["prediction"] == max(probabilities, key=probabilities.get)


def test_same_seed_gives_the_same_results(finished, image_folder, tmp_path):
    again = train(configured(tmp_path, image_folder))
    other = train(configured(tmp_path / "other", image_folder, "seed=1", "callbacks.progress=null", "logger.csv=null"))
    assert not (tmp_path / "other" / "csv").exists()
    mine = torch.load(finished[0] / "last.ckpt", weights_only=True)["state_dict"]
    same = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    different = torch.load(tmp_path / "other" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(mine[key], same[key]) for key in mine)
    assert any(not torch.equal(mine[key], different[key]) for key in mine)
    assert again["test/f1_macro"] == finished[1]["test/f1_macro"]
    assert other["seed"] == 1


def test_evaluation_needs_only_the_checkpoint(finished, tmp_path):
    folder, results, _ = finished
    own = (f"ckpt={folder / 'best.ckpt'}", f"hydra.run.dir={tmp_path / 'evaluated'}", *QUICK_LATENCY)
    done = entry_points.run("evaluate.py", *own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    evaluated = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    for key in ("test/f1_macro", "test/accuracy_micro", "test/auroc_macro", "test/ece", "macs", "params", "images"):
        assert evaluated[key] == pytest.approx(results[key], abs=1e-6), key
    assert (tmp_path / "evaluated" / "predictions.csv").read_text() == (folder / "predictions.csv").read_text()


def test_evaluation_on_another_folder_maps_classes_by_name(finished, image_folder, tmp_path):
    known, unknown = tmp_path / "known", tmp_path / "unknown"
    for folder in (known, unknown):
        (folder / "cup").mkdir(parents=True)
        for number in range(3):
            (folder / "cup" / f"{number}.jpg").write_bytes(
                (image_folder / f"cup/cup{number}.jpg").read_bytes() + b"new"
            )
    (unknown / "cat").mkdir()
    (unknown / "cat" / "0.jpg").write_bytes((image_folder / "cup" / "cup0.jpg").read_bytes())
    arguments = ["evaluate.py", f"ckpt={finished[0] / 'best.ckpt'}", "data=folder", *QUICK_LATENCY]
    commands = [
        [*arguments, f"data.root={folder}", f"hydra.run.dir={tmp_path / 'evaluated' / folder.name}"]
        for folder in (known, unknown)
    ]
    done, refused = run_all(commands, tmp_path)
    assert done.returncode == 0, done.stderr
    evaluated = json.loads((tmp_path / "evaluated" / "known" / "metrics.json").read_text())
    assert evaluated["images"] == 3
    assert evaluated["classes"] == ["bag", "can", "cup"]
    assert refused.returncode == 2
    assert "cat" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_killed_run_resumes_to_the_same_numbers(finished, image_folder, tmp_path):
    folder = tmp_path / "killed"
    arguments = [*TINY, f"data.root={image_folder}", f"hydra.run.dir={folder}"]
    process = entry_points.start("train.py", *arguments, cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not (folder / "last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] < 2  # killed before the last epoch
    resumed = run(f"ckpt={folder / 'last.ckpt'}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    expected, found = (
        torch.load(run_dir / "last.ckpt", weights_only=True)["state_dict"] for run_dir in (finished[0], folder)
    )
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored["test/f1_macro"] == finished[1]["test/f1_macro"]
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + 3


def test_sweep_continues_after_a_failed_job_and_ranks_all(image_folder, tmp_path):
    arguments = [
        "-m",
        *TINY,
        f"data.root={image_folder}",
        "model.name=resnet10t,no_such_net",
        "epochs=1",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    ]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    rows = json.loads((tmp_path / "sweep" / "leaderboard.json").read_text())
    assert [row["status"] for row in rows] == ["completed", "failed"]
    assert "no_such_net" in rows[1]["error"]
    assert "Traceback" in next((tmp_path / "sweep").glob("*/error.log")).read_text()
    assert {path.suffix for path in (tmp_path / "sweep").glob("leaderboard.*")} >= {".csv", ".json", ".md"}
    assert not any("=" in str(path.relative_to(tmp_path)) for path in (tmp_path / "sweep").rglob("*"))


def test_wrong_model_folder_or_checkpoint_is_a_one_line_error(tmp_path):
    hints = {
        ("model=timm", "model.name=resnet81"): "resnet18",
        ("data=folder", "data.root=nowhere"): "nowhere",
        ("ckpt=nowhere.ckpt",): "nowhere.ckpt",
    }
    results = run_all([["train.py", *arguments, "data.size=32"] for arguments in hints], tmp_path)
    for hint, done in zip(hints.values(), results, strict=True):
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        line = next(line for line in done.stderr.splitlines() if line.startswith("error:"))
        assert hint in line


def test_hostile_checkpoint_is_refused(tmp_path):
    import pickle

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'harm'}",)

    (tmp_path / "bad.ckpt").write_bytes(pickle.dumps(Hostile()))
    done = entry_points.run("evaluate.py", f"ckpt={tmp_path / 'bad.ckpt'}", cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "harm").exists()
    assert done.stderr.startswith("error:")


def test_two_processes_train_one_run(image_folder, tmp_path):
    arguments = [*TINY, f"data.root={image_folder}", "epochs=2", f"hydra.run.dir={tmp_path / 'ddp'}"]
    arguments.append("trainer.enable_progress_bar=true")  # the default; only the first process shows the bar
    done = run(*arguments, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "ddp" / "metrics.json").read_text())
    assert results["status"] == "completed"
    assert results["images"] == 9  # each test image once, over both ranks
    assert len((tmp_path / "ddp" / "history.csv").read_text().splitlines()) == 1 + 2
    assert len(list(tmp_path.rglob("metrics.json"))) == 1
