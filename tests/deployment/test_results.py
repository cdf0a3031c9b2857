"""Predictions of a split, and the results of an evaluation as metrics.json has them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deployment.complexity import cost
from deployment.latency.benchmark import LatencyReport
from deployment.predictors import Artifact, TorchPredictor, predict_split
from deployment.results import Results
from litesort.preprocessing import Preprocessing


@pytest.fixture
def artifact(trained, tmp_path):
    return Artifact(tmp_path / "best.ckpt", TorchPredictor(trained.net), trained.card, trained.net)


def test_predictions_of_a_split_keep_the_order_of_its_loader(trained, artifact):
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
    latency = LatencyReport([{"batch": 1, "entries": {"model": {"median_ms": 2.0, "ratio": 0.5}}}])
    found = Results(
        artifact=artifact,
        run_info={"name": "tiny", "data": "folder"},
        split=split,
        images=12,
        size=Preprocessing.from_card(trained.card).size,
        metrics={"f1_macro": 0.9},
        coverage={"coverage": 1.0},
        cost=cost(artifact, 32),
        latency=latency,
        score={"score": 1.0},
    ).asdict()
    assert list(found) == [
        "status", "error", "name", "data", "ckpt", "split", "images", "model", "origin", "size", "classes",
        f"{stage}/f1_macro", "coverage", "params", "macs", "bytes", "score", "latency_ms", "ratio", "latency",
        "versions",
    ]  # fmt: skip
    assert (found["size"], found["model"], found["latency_ms"], found["ratio"]) == (32, "resnet10t", 2.0, 0.5)
    assert found["ckpt"] == str(artifact.path)
