"""Predictions of a split, and the results of an evaluation as keys of metrics.json."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deployment.complexity import cost
from deployment.latency import LatencyReport, Settings
from deployment.latency.candidates import model_clock, torch_candidate
from deployment.predictors import Artifact, TorchPredictor, predict_split
from deployment.results import Results
from litesort.preprocessing import Preprocessing


@pytest.fixture
def artifact(trained, tmp_path):
    return Artifact(tmp_path / "best.ckpt", TorchPredictor(trained.net), trained.card, trained.net)


def test_predict_split_keeps_the_order_of_the_loader(trained, artifact):
    order = np.array([3, 0, 2])
    batch = torch.from_numpy(trained.pixels[order]), torch.from_numpy(trained.targets[order]), torch.from_numpy(order)
    data = SimpleNamespace(
        loader={"test": [batch]}.__getitem__,
        classes=trained.classes,
        samples=[SimpleNamespace(path=file.name) for file in trained.files],
        source=SimpleNamespace(file=trained.files.__getitem__),
    )
    predictions = predict_split(artifact.predict, data, "test")
    np.testing.assert_allclose(predictions.probabilities, trained.expected[order], atol=1e-5)
    assert predictions.files == [trained.files[i] for i in order]
    assert predictions.names == [trained.files[i].name for i in order]
    assert predictions.targets.tolist() == trained.targets[order].tolist()


@pytest.mark.parametrize(("split", "stage"), [("test", "test"), ("unseen", "test"), ("train", "train")])
def test_results_have_the_keys_of_metrics_json(trained, artifact, split, stage):
    (record,) = model_clock(
        {"model": torch_candidate(trained.net, 32)}, reference="model", settings=Settings(seconds=0, min_rounds=3)
    )
    latency = LatencyReport([record], "resnet10t 32 px", {"model": "eager"})
    row = Results(
        artifact=artifact,
        run_info={"name": "tiny", "data": "folder"},
        split=split,
        images=12,
        size=Preprocessing.from_card(trained.card).size,
        metrics={"f1_macro": 0.9},
        rejection={"threshold": 0.8},
        cost=cost(artifact, 32),
        latency=latency,
        score={"score": 1.0},
    ).asdict()
    assert list(row) == [
        "status", "error", "name", "data", "ckpt", "split", "images", "model", "origin", "size", "classes",
        f"{stage}/f1_macro", "threshold", "params", "macs", "bytes", "score",
        "latency_ms", "latency_ms_low", "latency_ms_high", "latency_p90_ms", "end_to_end_ms",
        "ratio", "ratio_low", "ratio_high",
        "ratio_same_runtime", "ratio_same_runtime_low", "ratio_same_runtime_high",
        "unsteady", "runtime", "threads", "reference", "machine", "latency", "versions",
    ]  # fmt: skip
    assert (row["size"], row["model"], row["ratio"], row["runtime"]) == (32, "resnet10t", 1.0, "eager")
    assert row["latency_ms"] == record["entries"]["model"]["median_ms"]
    assert row["ckpt"] == str(artifact.path)
