"""experiment=linear_probe: the fit of the classifier, and all uses of the checkpoint."""

import json
import shutil

import numpy as np
import pytest
import torch
from configs import QUICK_LATENCY, TINY_RUN, composed
from tiny_training import history_rows

from evaluate import main as evaluate_main
from export import export
from lightning_modules.checkpoint import load_net
from lightning_modules.linear_probe import LinearProbe, fit_linear
from lightning_modules.objectives.base import CrossEntropy
from litesort.cli.build import resumed_config
from litesort.errors import ModelError
from predict import predict
from train import train

QUICK = (*QUICK_LATENCY, "latency.end_to_end=false")
TINY = (*TINY_RUN, "latency.end_to_end=false", "trainer.log_every_n_steps=1", "mistakes=0")


def trained(folder, image_folder, *overrides: str):
    """Run train.py. With a checkpoint, the network and the data are those of the checkpoint."""
    chosen = [f"run_dir={folder}", *TINY, f"data.root={image_folder}", *overrides]
    if any(override.startswith(("ckpt=", "ckpt_init=")) for override in overrides):
        chosen = [override for override in chosen if not override.startswith(("model", "data"))]
    cfg = resumed_config(composed("train", *chosen), list(overrides))
    return train(cfg, list(overrides))


@pytest.fixture(scope="module")
def probe(image_folder, tmp_path_factory):
    """A finished probe: its folder and metrics.json."""
    folder = tmp_path_factory.mktemp("probe")
    return folder, trained(folder, image_folder, "experiment=linear_probe", "epochs=2")


def test_only_the_classifier_changes_and_it_learns(probe):
    folder, results = probe
    net, card = load_net(folder / "best.ckpt")
    assert net.net.fc.bias.count_nonzero() == 3, "the bias is fitted, since it starts at 0"
    assert int(net.net.bn1.num_batches_tracked) == 0, "BatchNorm statistics are unchanged"
    assert torch.equal(net.net.bn1.weight, torch.ones_like(net.net.bn1.weight))
    assert min(results["test/f1_macro"], results["val/f1_macro"]) > 0.6
    assert results["epochs"] == len(history_rows(folder)) == 2
    assert all(0 < float(row["train/weight_decay"]) <= 1 for row in history_rows(folder))
    assert card["config"]["classifier"]["_target_"] == "lightning_modules.LinearProbe"
    assert card["split"]


def test_resumed_run_gives_the_same_classifier(probe, image_folder, tmp_path):
    trained(tmp_path, image_folder, "experiment=linear_probe", "epochs=1")
    assert len(history_rows(tmp_path)) == 1
    resumed = trained(tmp_path, image_folder, f"ckpt={tmp_path / 'last.ckpt'}", "epochs=2")
    expected, found = (
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in (probe[0], tmp_path)
    )
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    assert resumed["test/f1_macro"] == probe[1]["test/f1_macro"]


def test_checkpoint_is_evaluated_exported_and_predicted(probe, image_folder, tmp_path):
    folder, results = probe
    ckpt = f"ckpt={folder / 'best.ckpt'}"
    evaluate_main(composed("evaluate", ckpt, f"run_dir={tmp_path}", "mistakes=0", *QUICK))
    evaluated = json.loads((tmp_path / "metrics.json").read_text())
    assert evaluated["test/f1_macro"] == pytest.approx(results["test/f1_macro"], abs=1e-6)
    found = predict(composed("predict", ckpt, f"source={image_folder}/can", f"csv={tmp_path / 'labels.csv'}"))
    assert sum(found.counts.values()) == 20
    pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    choice = ("format=[onnx]", "precision=[fp32]", "tolerance.fp32=0.01")
    report = export(composed("export", ckpt, f"out={tmp_path / 'exported'}", *choice, *QUICK))
    assert report["rows"][1]["test/f1_macro"] == pytest.approx(results["test/f1_macro"], abs=1e-6)


def test_checkpoint_is_a_teacher_and_the_start_of_a_fine_tuning(probe, image_folder, tmp_path):
    folder, results = probe
    best = folder / "best.ckpt"
    student = trained(tmp_path / "student", image_folder, "objective=distill_logit", f"teacher={best}", "epochs=1")
    assert student["val/f1_macro"] >= 0
    (row,) = history_rows(tmp_path / "student")
    assert float(row["val/teacher_f1_macro"]) == pytest.approx(results["val/f1_macro"])
    tuned = trained(tmp_path / "tuned", image_folder, f"ckpt_init={best}", "epochs=1", "callbacks=[default,finetuning]")
    assert tuned["val/f1_macro"] == pytest.approx(results["val/f1_macro"], abs=0.1), "it starts from the probe"


def test_leaderboard_page_shows_the_run(probe, tmp_path):
    from reports.html.leaderboard import main

    shutil.copytree(probe[0], tmp_path / "probe")
    assert main([str(tmp_path)]) == 0
    assert "resnet10t" in (tmp_path / "leaderboard.html").read_text()


def test_fit_equals_logistic_regression_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(0)
    targets = np.arange(90) % 3
    features = (random.normal(size=(90, 5)) + np.eye(3, 5)[targets]).astype(np.float32) * [1, 2, 3, 4, 5] + 7
    decay = 0.05
    (fit,) = fit_linear(
        torch.tensor(features).float(), torch.tensor(targets), 3, torch.nn.functional.cross_entropy, [decay]
    )
    standardised = (features - features.mean(0)) / features.std(0, ddof=1)
    reference = linear_model.LogisticRegression(C=1 / (decay * len(targets)), tol=1e-8, max_iter=1000)
    expected = reference.fit(standardised, targets).predict_proba(standardised)
    found = fit.logits(torch.tensor(features).float()).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer=adamw", "optimizer does nothing in a linear probe"),
        ("classifier.compile=true", "classifier.compile=true does nothing"),
        ("classifier.weight_decay=[0.1,0]", r"weight_decay=\[0.1, 0\] is invalid"),
        ("classifier.weight_decay=[]", r"weight_decay=\[\] is invalid"),
    ],
)
def test_settings_without_effect_are_refused(image_folder, tmp_path, override, message):
    from train import build_module_and_data

    own = (f"data.root={image_folder}", f"run_dir={tmp_path}", "experiment=linear_probe", override)
    cfg = composed("train", *TINY, *own)
    with pytest.raises(ModelError, match=message):
        build_module_and_data(cfg, [])


def test_a_classifier_that_is_not_linear_is_refused(tiny_net):
    with pytest.raises(ModelError, match="has no linear classifier"):
        LinearProbe(tiny_net, CrossEntropy(), None, ["a", "b"], weight_decay=[0.1])


@pytest.fixture
def tiny_net():
    from lightning_modules.backbones.backbone import Backbone

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))

        def get_classifier(self):
            return self.fc

        def forward(self, images):
            return self.fc(images.mean((2, 3)))

    return Backbone(Net(), name="tiny", num_classes=2)
