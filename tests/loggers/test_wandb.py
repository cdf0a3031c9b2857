"""Weights & Biases without an account, read back from its offline files."""

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from loggers.wandb import Wandb, can_be_online, find_run, finish, log_config, log_results
from loggers.wandb_media import WandbMedia, grid, log_prediction_tables

CLASSES = ["glass", "metal", "paper"]


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], size=60).astype(np.float32)
    return probabilities, rng.integers(0, 3, 60)


def test_run_logs_config_metrics_results_and_tables(
    tmp_path, capsys, make_module, make_trainer, data, predictions, offline_run
):
    logger = Wandb(str(tmp_path), name="tiny", group="sweep 1", tags=["a", "b"], notes="a try")
    trainer = make_trainer(WandbMedia(preview=5), epochs=2, logger=[logger])
    log_config([logger], {"model": {"name": "tiny"}, "seed": 3})
    trainer.fit(make_module(), datamodule=data)
    probabilities, targets = predictions
    files = [f"image{row}.jpg" for row in range(60)]
    log_prediction_tables(
        [logger], probabilities, targets, CLASSES, files, lambda row: np.full((900, 600, 3), row, np.uint8), mistakes=4
    )
    log_results(
        [logger],
        {
            "params": 91,
            "macs": 10,
            "latency_ms": 0.5,
            "score": 0.9,
            "test/f1_macro": 0.7,
            "classes": CLASSES,
            "x": np.nan,
        },
    )
    finish([logger])

    run = offline_run(tmp_path)
    assert f"wandb sync {run.path.parent}" in capsys.readouterr().out
    assert (run.run.display_name, run.run.run_group, run.run.job_type) == ("tiny", "sweep 1", "train")
    assert (list(run.run.tags), run.run.notes, run.exit_code) == (["a", "b"], "a try", 0)
    assert run.config["model/name"] == "tiny"
    assert run.config["seed"] == 3
    assert len(run.values("val/f1_macro")) == len(run.values("train/loss")) == 2
    assert len(run.values("train/loss_step")) == 8
    expected = {"params": 91, "macs": 10, "latency_ms": 0.5, "score": 0.9, "test/f1_macro": 0.7}
    assert {key: run.summary[key] for key in expected} == expected
    assert "x" not in run.summary

    (preview,) = run.values("preview/augmented/path")
    assert run.picture(preview).size == (3 * 8, 2 * 8)
    matrix = run.table("test/confusion_matrix_table")["data"]
    assert sum(row[2] for row in matrix) == 60
    table = run.table("test/per_class")
    reference = np.array(precision_recall_fscore_support(targets, probabilities.argmax(1), zero_division=0)).T
    assert [row[0] for row in table["data"]] == CLASSES
    np.testing.assert_allclose(np.array([row[1:] for row in table["data"]]), reference, rtol=1e-6)
    assert {row[1] for row in run.table("test/pr_curves_table")["data"]} == set(CLASSES)

    mistakes = run.table("test/mistakes")["data"]
    confidence = [row[4] for row in mistakes]
    wrong = probabilities.argmax(1) != targets
    assert confidence == pytest.approx(sorted(probabilities.max(1)[wrong], reverse=True)[:4])
    for image, file, label, prediction, _ in mistakes:
        row = files.index(file)
        assert (label, prediction) == (CLASSES[targets[row]], CLASSES[probabilities[row].argmax()])
        picture = run.artifact_picture(image["path"])
        assert picture.getpixel((0, 0)) == (row, row, row)
        assert picture.size == (171, 256)
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file() and "logs" not in path.parts] == []


@pytest.mark.parametrize(
    ("environment", "netrc", "online"),
    [
        ({}, None, False),
        ({"WANDB_API_KEY": "k" * 40}, None, True),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, None, False),
        ({}, "machine api.wandb.ai\n login user\n password key\n", True),
        ({}, "machine elsewhere.org\n login user\n password key\n", False),
        ({"WANDB_BASE_URL": "https://own.server:8443"}, "machine own.server:8443\n login user\n password key\n", True),
        ({"WANDB_BASE_URL": "https://own.server"}, "machine api.wandb.ai\n login user\n password key\n", False),
        ({}, "nonsense in this file\n", False),
    ],
)
def test_can_be_online_only_with_an_api_key(monkeypatch, environment, netrc, online):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if netrc is not None:
        home = Path(os.environ["HOME"])
        home.mkdir(exist_ok=True)
        (home / ".netrc").write_text(netrc)
        (home / ".netrc").chmod(0o600)
    assert can_be_online() is online


def test_unreachable_server_prints_one_line_and_the_run_continues_offline(tmp_path, monkeypatch, capsys, offline_run):
    with socket.socket() as server:  # bound and not listening: connections are refused
        server.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        logger = Wandb(str(tmp_path), log_model=True)
        logger.log_metrics({"a": 1.5}, step=2)
        finish([logger], failed=True)
    run = offline_run(tmp_path)
    assert run.values("a") == [1.5]
    assert run.values("trainer/global_step") == [2]
    assert run.exit_code == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "continues offline" in captured.err


def test_runs_of_one_process_are_separate_and_a_resumed_run_keeps_its_id(tmp_path, offline_run):
    for name in ("one", "two"):
        logger = Wandb(str(tmp_path / name))
        logger.log_metrics({name: 1.0})  # never finished, as after an exception
    finish([logger])
    assert [len(offline_run(tmp_path / name).values(name)) for name in ("one", "two")] == [1, 1]
    assert Wandb(str(tmp_path / "one")).experiment.id == offline_run(tmp_path / "one", first=True).run.run_id


def test_nothing_happens_without_a_wandb_logger(predictions):
    assert find_run([]) is None
    log_prediction_tables([], *predictions, CLASSES, [], lambda row: 1 / 0)
    log_results([], {"a": 1})


def test_grid_keeps_order_and_fills_with_black():
    images = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((5, 2, 4, 3), np.uint8)
    picture = grid(images)
    assert picture.shape == (4, 12, 3)
    assert picture[::2, ::4, 0].tolist() == [[1, 2, 3], [4, 5, 0]]


def test_summary_is_plain_json(tmp_path, offline_run):
    logger = Wandb(str(tmp_path))
    log_results([logger], {"status": "completed", "ok": True, "latency": {"a": 1}, "none": None})
    finish([logger])
    summary = offline_run(tmp_path).summary
    assert summary["status"] == "completed"
    assert summary["ok"] is True
    assert {"latency", "none"}.isdisjoint(summary)
    json.dumps(summary)
