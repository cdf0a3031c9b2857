import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from lightning_modules import metrics
from lightning_modules.metrics import StageMetrics
from reports.calibration import calibration_error

CLASSES = ["Metal", "Paper", "Plastic", "Glass"]


def _stage(probabilities: np.ndarray, targets: np.ndarray, batch: int = 7) -> tuple[dict, StageMetrics]:
    stage = StageMetrics(CLASSES)
    logits = torch.from_numpy(probabilities).log().float()
    for i in range(0, len(targets), batch):
        stage.update(logits[i : i + batch], torch.from_numpy(targets[i : i + batch]))
    return {name: value.item() for name, value in stage.compute().items()}, stage


def _predictions(n: int, present: int, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.choice(present, size=n, p=np.arange(1, present + 1) / np.arange(1, present + 1).sum())
    logits = rng.normal(size=(n, 4)) * sharpness
    logits[np.arange(n), targets] += sharpness
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), targets


def test_stage_metrics_equal_sklearn():
    sk = pytest.importorskip("sklearn.metrics")
    p, y = _predictions(500, present=4)
    got, stage = _stage(p, y)
    predicted = p.argmax(axis=1)
    assert got["f1_macro"] == pytest.approx(sk.f1_score(y, predicted, average="macro"), abs=1e-6)
    for name, value in zip(CLASSES, sk.f1_score(y, predicted, average=None), strict=True):
        assert got[f"f1/{name}"] == pytest.approx(value, abs=1e-6)
    assert got["accuracy_micro"] == pytest.approx(sk.accuracy_score(y, predicted), abs=1e-6)
    assert got["auroc_macro"] == pytest.approx(sk.roc_auc_score(y, p, average="macro", multi_class="ovr"), abs=2e-3)
    np.testing.assert_array_equal(stage.confusion.numpy(), sk.confusion_matrix(y, predicted))


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
def test_stage_metrics_auroc_is_exact_at_any_logit_scale(scale):
    sk = pytest.importorskip("sklearn.metrics")
    p, y = _predictions(2000, present=4)
    p = p**scale / (p**scale).sum(axis=1, keepdims=True)
    got = metrics.evaluate(p, y, CLASSES)
    expected = sk.roc_auc_score(y, p.astype(np.float32), average="macro", multi_class="ovr")
    assert got["auroc_macro"] == pytest.approx(expected, abs=1e-4)


def test_evaluate_does_not_normalise_probabilities():
    p, y = _predictions(300, present=4)
    p = np.where(p < 0.02, 0.0, p).astype(np.float32)
    p[0] = [1, 0, 0, 0]
    got = metrics.evaluate(p, y, CLASSES)
    confidence = p.max(axis=1)
    error = calibration_error(confidence, p.argmax(axis=1) == y)
    assert got["ece"] == pytest.approx(error, abs=1e-6)  # rows are not rescaled to sum 1
    expected = MulticlassCalibrationError(4, n_bins=15, norm="l1")(torch.from_numpy(p), torch.from_numpy(y))
    assert error == pytest.approx(expected.item(), abs=1e-6)


def test_stage_metrics_ece_equals_definition():
    p, y = _predictions(500, present=4)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(correct[bins == b].sum() - confidence[bins == b].sum()) for b in range(15)]
    assert _stage(p, y)[0]["ece"] == pytest.approx(sum(gaps) / 500, abs=1e-5)


def test_stage_metrics_omit_class_without_images():
    sk = pytest.importorskip("sklearn.metrics")
    p, y = _predictions(300, present=3)
    assert (p.argmax(axis=1) == 3).any()  # "Glass" is predicted, but has no images
    got, _ = _stage(p, y)
    assert "f1/Glass" not in got
    assert all(np.isfinite(value) for value in got.values())
    assert got["f1_macro"] == pytest.approx(
        sk.f1_score(y, p.argmax(axis=1), labels=[0, 1, 2], average="macro"), abs=1e-6
    )
    auroc = np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in range(3)])
    assert got["auroc_macro"] == pytest.approx(auroc, abs=2e-3)


def test_stage_metrics_of_one_class_have_no_auroc_and_no_nan():
    p, y = _predictions(20, present=1)
    got, _ = _stage(p, y)
    assert "auroc_macro" not in got
    assert all(np.isfinite(value) for value in got.values())


def test_stage_metrics_are_independent_of_batching(monkeypatch):
    p, y = _predictions(300, present=4)
    whole, _ = _stage(p, y)
    monkeypatch.setattr(metrics, "_UPDATE_ROWS", 32)
    in_parts, stage = _stage(p, y)
    assert in_parts == pytest.approx(whole, abs=1e-6)
    assert not stage.state_dict()


def test_stage_metrics_reset_discards_epoch():
    p, y = _predictions(100, present=4)
    first, stage = _stage(p, y)
    stage.update(torch.randn(9, 4), torch.zeros(9, dtype=torch.int64))
    stage.reset()
    assert stage.confusion.sum() == 100  # kept until the next compute
    stage.update(torch.from_numpy(p).log().float(), torch.from_numpy(y))
    assert {k: v.item() for k, v in stage.compute().items()} == pytest.approx(first, abs=1e-6)
