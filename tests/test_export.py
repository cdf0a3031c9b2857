"""Export: every file is verified, timed and ranked, and evaluate.py and the examples run it."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from configs import QUICK_LATENCY, composed_quoted
from entry_points import run_all
from PIL import Image

from evaluate import main as evaluate_main
from export import export
from litesort.errors import DeploymentError, ModelError
from predict import predict

for package in ("onnx", "onnxruntime", "openvino", "nncf", "ncnn", "pnnx"):
    pytest.importorskip(package, reason="the export extra is not installed")

ROOT = Path(__file__).parent.parent


def configured(config: str, *overrides: str):
    quick = () if config == "predict" else QUICK_LATENCY
    return composed_quoted(config, *quick, *overrides)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """Folder and report of an export to three formats in two precisions."""
    folder = tmp_path_factory.mktemp("exported")
    choice = ("format=onnx,openvino,ncnn", "precision=fp32,int8", "max_drop=0.5", "calibration_images=8")
    # a tiny network is not robust, and there are 9 validation images
    small = ("tolerance.fp32=0.01", "agreement.int8=0.3", "target_accuracy=0.5", "target_confidence=0.5")
    return folder, export(configured("export", f"ckpt={checkpoint}", f"out={folder}", *choice, *small))


def test_every_combination_is_written_verified_and_timed(exported):
    folder, report = exported
    rows = {row["file"]: row for row in report["rows"]}
    assert list(rows) == [
        "checkpoint", "model-fp32.onnx", "model-int8.onnx", "model-fp32.xml", "model-int8.xml", "model-fp32.ncnn.param",
        "model-int8.ncnn.param",
    ]  # fmt: skip
    assert rows["model-int8.ncnn.param"]["status"] == "not offered"
    done = [row for row in rows.values() if row["status"] == "completed"]
    assert len(done) == 6
    for row in done:
        assert row["latency_ms"] > 0
        assert row["end_to_end_ms"] > 0
        assert row["bytes"] > 0
        assert 0 <= row["test/f1_macro_low"] <= row["test/f1_macro"] <= row["test/f1_macro_high"] <= 1
        assert row["score"] > 0
        assert row["val/score"] > 0
        assert {f"test/f1/{name}" for name in ("bag", "can", "cup")} <= row.keys()
    for name in ("model-fp32.onnx", "model-fp32.xml", "model-fp32.ncnn.param"):
        assert rows[name]["difference"] < 1e-3
        assert rows[name]["val/f1_lost"] == rows[name]["test/f1_lost"] == 0
        assert rows[name]["worst_class_change"] == 0
    stored = json.loads((folder / "export.json").read_text())
    assert stored["recommended"] == report["recommended"]
    times = {row["file"]: row["latency_ms"] for row in done if row["file"] != "checkpoint"}
    assert report["recommended"] in times
    with (folder / "export.csv").open() as file:
        assert [row["file"] for row in csv.DictReader(file)] == list(rows)
    assert {"temperature", "ece_before", "ece_after"} <= stored["calibration"].keys()
    entry = report["latency"][0]["entries"]["model-fp32.onnx"]
    assert (entry["runtime"], entry["runtime_threads"], entry["size"]) == ("ONNX Runtime", 1, 32)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_every_file_stores_the_threshold_of_its_own_probabilities(exported, image_folder):
    from deployment.predictors import load_exported

    _, report = exported
    for row in report["rows"][1:]:
        if row["status"] == "completed":
            stored = load_exported(row["path"]).card["exported"]
            assert (stored["threshold"], stored["threshold_target"]) == (row["threshold"], 0.5)
            assert 0 < row["threshold"] <= 1
            assert 0 < row["test/coverage"] <= 1
            inputs = f"ckpt={row['path']}", f"source={image_folder}"
            by_file, by_number = (
                predict(configured("predict", *inputs, f"min_confidence={threshold}")).statuses["rejected"]
                for threshold in ("auto", row["threshold"])
            )
            assert by_file == by_number


def test_choices_do_not_depend_on_the_evaluated_images(exported, checkpoint, tmp_path):
    """An export that is evaluated on training images writes the same files and thresholds as one on test images."""
    _, report = exported
    choice = ("format=onnx", "precision=fp32", "tolerance.fp32=0.01", "target_accuracy=0.5", "target_confidence=0.5")
    other = export(configured("export", f"ckpt={checkpoint}", f"out={tmp_path / 'out'}", "split=train", *choice))
    keys = ("val/f1_macro", "val/f1_lost", "threshold", "difference", "agreement")
    for before, after in zip(report["rows"], other["rows"], strict=False):
        assert [before.get(key) for key in keys] == [after.get(key) for key in keys]
    assert other["temperature"] == report["temperature"]
    assert "train/f1_macro" in other["rows"][1]
    assert "test/f1_macro" not in other["rows"][1]
    on_val = export(configured("export", f"ckpt={checkpoint}", f"out={tmp_path / 'val'}", "split=val", *choice))
    assert "val/coverage" not in on_val["rows"][1]  # the threshold was chosen on validation images


@pytest.mark.parametrize("name", ["model-fp32.onnx", "model-fp32.xml", "model-fp32.ncnn.param"])
def test_exported_file_has_the_results_of_its_checkpoint(exported, tmp_path, name, monkeypatch):
    folder, report = exported
    for part in folder.glob(f"{name.partition('.')[0]}.*"):
        (tmp_path / part.name).write_bytes(part.read_bytes())
    cfg = configured("evaluate", f"ckpt={tmp_path / name}", f"run_dir={tmp_path / 'evaluated'}")
    evaluate_main.__wrapped__(cfg)
    evaluated = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    metrics = report["metrics"]
    assert evaluated["test/f1_macro"] == pytest.approx(metrics["f1_macro"])
    assert evaluated["test/ece"] == pytest.approx(metrics["ece"], abs=1e-3)
    assert evaluated["images"] == report["images"]
    row = next(row for row in report["rows"] if row["file"] == name)
    assert evaluated["val/f1_macro"] == pytest.approx(row["val/f1_macro"])
    assert (evaluated["params"], evaluated["macs"]) == (report["params"], report["macs"])
    assert (evaluated["model"], evaluated["name"], evaluated["size"]) == ("resnet10t", "resnet10t", 32)
    assert evaluated["score"] > 0
    assert (tmp_path / "evaluated" / "confusion.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("script", "model"), [("robot.py", "model-fp32.onnx"), ("robot_ncnn.py", "model-fp32.ncnn.param")]
)
def test_examples_need_neither_torch_nor_litesort(exported, image_folder, tmp_path, script, model):
    folder, report = exported
    blocked = {
        "torch", "torchvision", "timm", "hydra", "litesort", "datamodules", "lightning_modules", "callbacks", "loggers",
        "deployment", "reports", "conf",
    }  # fmt: skip
    files = [str(image_folder / name / f"{name}{number}.jpg") for name in ("bag", "can", "cup") for number in (0, 1)]
    large = tmp_path / "large.jpg"  # decoded at a quarter of its size
    Image.open(files[0]).resize((290, 270)).save(large, quality=95)
    files.append(str(large))
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(large.read_bytes()[:200])
    threshold = next(row["threshold"] for row in report["rows"] if row["file"] == model)
    code = (
        "import sys, runpy\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        f"sys.argv = [{script!r}, {str(folder / model)!r}, 'missing.jpg', {str(damaged)!r}, *{files}]\n"
        f"runpy.run_path({str(ROOT / 'examples' / script)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["missing.jpg", str(damaged)]
    from datamodules import images
    from deployment.predictors import load_exported

    predict = load_exported(folder / model)
    for line, file in zip(done.stdout.splitlines(), files, strict=True):
        probabilities = predict(images.load(file, 32, "pad")[None])[0]
        name, label, confidence, *rejected = line.removeprefix(f"{file}").split()
        assert name == ":"
        assert rejected == (["rejected"] if float(probabilities.max()) < threshold else [])
        assert float(confidence) == pytest.approx(float(probabilities.max()), abs=0.05)  # PIL differs by one level
        assert label == predict.card["classes"][int(probabilities.argmax())]


def test_failed_file_is_an_error_but_does_not_end_a_sweep(checkpoint, tmp_path):
    quick = (f"ckpt={checkpoint}", "format=onnx", "precision=fp32", *QUICK_LATENCY)
    single, sweep = run_all(
        [
            ["export.py", *quick, "tolerance.fp32=1e-30", f"out={tmp_path / 'out'}"],
            ["export.py", "-m", *quick, "tolerance.fp32=1e-30,1", f"out={tmp_path / 'each'}", "overwrite=true",
             f"hydra.sweep.dir={tmp_path / 'sweep'}"],
        ],
        tmp_path,
    )  # fmt: skip
    assert single.returncode == 2
    assert "differs from the checkpoint" in " ".join(single.stdout.split())
    assert "error: 1 of 1 files failed: model-fp32.onnx: see" in single.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"export.json", "export.csv"}
    assert sweep.returncode == 1
    assert "1 of 2 jobs failed" in sweep.stderr
    rows = json.loads((tmp_path / "sweep" / "leaderboard.json").read_text())
    states = sorted((row["status"], row.get("file", "job")) for row in rows)
    assert states == [(state, name) for state in ("completed", "failed") for name in ("job", "model-fp32.onnx")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("format=onnx,tflite", "format=tflite is unknown: choose one or more of ncnn,onnx,openvino"),
        ("precision=int4", "precision=int4 is unknown"),
        ("ckpt=nowhere.ckpt", "nowhere.ckpt"),
        ("calibration_images=0", "calibration_images=0"),
        ("temperature=0", "temperature"),
    ],
)
def test_invalid_settings_are_one_line(checkpoint, tmp_path, override, message):
    with pytest.raises((DeploymentError, ModelError), match=message) as caught:
        export(configured("export", f"ckpt={checkpoint}", f"out={tmp_path}", override))
    assert "\n" not in str(caught.value)


def test_export_does_not_replace_an_existing_export(checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path)
    arguments = (f"ckpt={tmp_path / 'best.ckpt'}", "format=onnx", "precision=fp32", "tolerance.fp32=1", *QUICK_LATENCY)
    command = ["export.py", *arguments]
    first, second, refused = run_all([command, command, [*command, f"out={tmp_path / 'exported'}"]], tmp_path)
    for folder, done in (("exported", first), ("exported-2", second)):
        assert done.returncode == 0, done.stderr
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert names == {"export.json", "export.csv", "model-fp32.onnx"}
        assert str(tmp_path / folder) in done.stdout
    assert refused.returncode == 2
    out = tmp_path / "exported"
    assert refused.stderr == f"error: out={out} holds an export: give another out, or overwrite=true to replace it\n"
    assert str(out) in json.loads((out / "export.json").read_text())["rows"][1]["path"]
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "exported", "exported-2"}


def test_unavailable_accelerator_is_an_error(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeploymentError, match=r"accelerator=cuda is not available here: give auto or one of cpu"):
        export(configured("export", f"ckpt={checkpoint}", f"out={tmp_path}", "accelerator=cuda"))
