"""Models and sweeps in W&B, read back from its offline files; the same keys in TensorBoard and MLflow."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger

from loggers.images import log_figures
from loggers.wandb import Wandb, finish, log_config, log_models, log_results
from loggers.wandb_media import WandbMedia
from loggers.wandb_sweep import write_dashboards
from reports.mistakes import write_mistakes
from reports.results import gather


@pytest.mark.parametrize("log_model", [True, False])
def test_log_model_logs_models_as_artifacts_with_the_alias_best(tmp_path, offline_run, log_model):
    (tmp_path / "exported").mkdir()
    (tmp_path / "best.ckpt").write_bytes(b"weights")
    (tmp_path / "exported" / "model-fp32.onnx").write_bytes(b"graph")
    logger = Wandb(str(tmp_path), log_model=log_model)
    logger.log_metrics({"a": 1.0})
    log_models([logger], tmp_path / "best.ckpt", {"test/f1_macro": 0.75, "classes": ["a"], "x": np.nan})
    finish([logger])
    run = offline_run(tmp_path)
    if not log_model:
        assert run.logged == {}
        return
    (name, model), (_, exported) = sorted(run.logged.items())
    assert name == f"{run.run.run_id}-checkpoint"
    assert (model.type, set(model.aliases)) == ("model", {"best", "latest"})
    assert (exported.type, set(exported.aliases)) == ("exported model", {"best", "latest"})
    assert json.loads(model.metadata) == {"test/f1_macro": 0.75}
    assert run.artifacts["best.ckpt"].read_bytes() == b"weights"
    assert run.artifacts["model-fp32.onnx"].read_bytes() == b"graph"


def make_sweep(folder, wandb_used):
    for i, (f1, latency) in enumerate([(0.6, 2.0), (0.7, 9.0), (0.5, 8.0)]):
        job = folder / str(i)
        (job / ("wandb" if wandb_used else "csv")).mkdir(parents=True)
        row = {
            "status": "completed",
            "model": f"net{i}",
            "seed": 0,
            "test/f1_macro": f1,
            "latency_ms": 1.0,
            "ratio_same_runtime": latency / 10,  # the time axis of every chart
            "score": 1 - f1,
        }
        (job / "metrics.json").write_text(json.dumps(row))
        (job / "config.yaml").write_text("logger: {wandb: {project: recycling, entity: null}}")
    (folder / "3").mkdir()
    (folder / "3" / "metrics.json").write_text('{"status": "failed", "error": "OutOfMemory"}')


def test_sweep_logs_a_run_with_leaderboard_and_pareto_table(tmp_path, offline_run):
    folder = tmp_path / "sweep"
    make_sweep(folder, wandb_used=True)
    (page,) = write_dashboards(gather(folder), folder)
    assert "net1" in page.read_text()
    run = offline_run(folder)
    assert (run.run.job_type, run.run.run_group, run.run.project) == ("sweep", "sweep", "recycling")
    table = run.table("leaderboard")
    models = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["model"] for row in models[:3]] == ["net1", "net0", "net2"]
    assert models[3]["error"] == "OutOfMemory"
    pareto = run.table("pareto")
    assert pareto["columns"][3] == "ratio_same_runtime"
    assert {row[0]: row[-1] for row in pareto["data"]} == {"net0": True, "net1": True, "net2": False}
    assert run.summary["best/model"] == "net1"
    assert run.summary["best/f1_macro"] == 0.7
    assert (run.summary["runs"], run.summary["failed"]) == (4, 1)


def test_sweep_without_wandb_starts_no_run(tmp_path):
    make_sweep(tmp_path, wandb_used=False)
    assert [path.name for path in write_dashboards(gather(tmp_path), tmp_path)] == ["leaderboard.html"]
    assert not list(tmp_path.glob("wandb"))


def train_and_log(logger, folder, make_module, make_trainer, data):
    """Train with one logger, and log everything that an entry point logs."""
    log_config([logger], {"model": {"name": "tiny"}, "seed": 3})
    make_trainer(WandbMedia(preview=5), epochs=2, logger=[logger]).fit(make_module(), datamodule=data)
    probabilities = np.array([[0.1, 0.9], [0.8, 0.2]])
    image = lambda row, side: np.full((side, side, 3), 99, np.uint8)  # noqa: E731
    write_mistakes(folder, probabilities, np.array([0, 0]), ["a", "b"], ["x.jpg", "y.jpg"], image, size=32)
    Image.new("RGB", (40, 30)).save(folder / "confusion.png")
    log_figures([logger], folder)
    log_results([logger], {"test/f1_macro": 0.7, "latency_ms": 1.5, "model": "tiny", "x": np.nan})
    logger.finalize("success")


METRICS = {"train/loss", "val/f1_macro", "val/loss", "test/f1_macro", "latency_ms"}
IMAGES = {"preview/augmented", "test/confusion_matrix", "test/mistakes"}


def test_tensorboard_has_the_same_keys(tmp_path, make_module, make_trainer, data):
    event = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    logger = TensorBoardLogger(str(tmp_path), name="tensorboard", default_hp_metric=False)
    train_and_log(logger, tmp_path, make_module, make_trainer, data)
    found = event.EventAccumulator(logger.log_dir)
    found.Reload()
    assert set(found.Tags()["scalars"]) >= METRICS
    assert set(found.Tags()["images"]) == IMAGES
    assert found.Scalars("test/f1_macro")[0].value == pytest.approx(0.7)
    assert (found.Images("test/mistakes")[0].width, found.Images("test/mistakes")[0].height) == (128, 128)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("mlflow", "sqlalchemy", "alembic"))), reason="no MLflow: pip install mlflow"
)
@pytest.mark.filterwarnings("ignore")  # MLflow's own code triggers these warnings
def test_mlflow_has_the_same_keys(tmp_path, make_module, make_trainer, data):
    uris = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "artifact_location": f"{tmp_path}/mlflow"}
    logger = MLFlowLogger(run_name="tiny", **uris)
    train_and_log(logger, tmp_path, make_module, make_trainer, data)
    run = logger.experiment.get_run(logger.run_id)
    assert set(run.data.metrics) >= METRICS
    assert run.data.params["model/name"] == "tiny"
    assert run.data.metrics["test/f1_macro"] == pytest.approx(0.7)
    names = {path.as_posix().partition("/artifacts/")[2] for path in tmp_path.glob("mlflow/**/*.png")}
    assert names == {f"{key}.png" for key in IMAGES}
