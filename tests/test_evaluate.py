"""An evaluation fits temperature and thresholds on validation images and reports results on other images."""

import shutil

import pytest
from configs import composed

from deployment.predictors import predict_split
from evaluate import measure_quality, open_artifact
from litesort.cli.build import load_data
from reports.rejection import choose_threshold, evaluate_threshold


@pytest.fixture
def evaluated(checkpoint, tmp_path):
    """Function: overrides -> the quality of the checkpoint, its data module, and the predictions of the split."""

    def evaluate(*overrides: str):
        cfg = composed("evaluate", f"ckpt={checkpoint}", f"run_dir={tmp_path}", *overrides)
        artifact = open_artifact(cfg.ckpt, cfg)
        data, split, _ = load_data(artifact.card, cfg)
        predictions = predict_split(artifact.predict, data, split)
        return measure_quality(artifact, data, predictions, split, cfg), data, artifact, predictions

    return evaluate


def test_threshold_is_chosen_on_val_and_evaluated_on_test(evaluated):
    quality, data, artifact, test = evaluated("target_accuracy=0.5", "target_confidence=0.5")
    val = predict_split(artifact.predict, data, "val")
    expected = choose_threshold(val.probabilities, val.targets, 0.5, 0.5)
    assert quality.rejection == expected.asdict()
    assert expected.value is not None
    assert evaluate_threshold(test.probabilities, test.targets, expected.value).items() <= quality.metrics.items()
    assert quality.validation.keys() == {"val/f1_macro"}
    metrics = quality.metrics
    assert metrics["f1_macro_low"] <= metrics["f1_macro"] <= metrics["f1_macro_high"]


def test_too_few_validation_images_give_no_threshold(evaluated):
    quality, *_ = evaluated()
    assert quality.rejection["threshold"] is None
    assert quality.rejection["threshold_note"] == "9 validation images are too few, at least 72 are needed"
    assert "coverage" not in quality.metrics


def test_threshold_is_not_evaluated_on_validation_images(evaluated, image_folder, tmp_path):
    loose = ("target_accuracy=0.5", "target_confidence=0.5")
    quality, *_ = evaluated("split=val", *loose)
    assert quality.rejection["threshold"] is not None
    assert "coverage" not in quality.metrics
    for number, file in enumerate(sorted(image_folder.rglob("*.jpg"))):  # train and val, but no test
        target = tmp_path / "images" / ("val" if number % 4 == 0 else "train") / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    quality, *_ = evaluated("data=folder", f"data.root={tmp_path / 'images'}", "split=test", *loose)
    assert quality.validation["test_is_val"]
    assert "coverage" not in quality.metrics


def test_other_images_have_no_validation_split(evaluated, image_folder):
    quality, *_ = evaluated("data=folder", f"data.root={image_folder}", "split=all")
    assert quality.validation == {}
    assert "no validation split" in quality.rejection["threshold_note"]


def test_predicted_class_without_images_is_a_warning(evaluated, image_folder, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("evaluate.log.warning", warnings.append)
    for name in ("bag", "can"):
        shutil.copytree(image_folder / name, tmp_path / "images" / name)
    for file in (image_folder / "cup").iterdir():
        shutil.copy(file, tmp_path / "images" / "can" / file.name)
    evaluated("data=folder", f"data.root={tmp_path / 'images'}", "split=all")
    assert len(warnings) == 1
    assert "class cup has no image here and is predicted" in warnings[0]
