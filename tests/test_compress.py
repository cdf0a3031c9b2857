"""experiment=compress/*: one sweep from a teacher to exported files, with tiny networks and images."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import entry_points
import pytest

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package, reason="the export extra is not installed")

ROOT = Path(__file__).parent.parent
TINY = (
    "model=timm", "model.name=lcnet_035", "data=folder", "data.size=32", "data.batch_size=8", "trainer=smoke",
    "trainer.enable_progress_bar=false", "latency.settings.seconds=0", "latency.settings.min_rounds=1",
    "latency.batches=[1]", "latency.end_to_end=false", "score.reference=resnet10t", "score.reference_size=64",
    "export=onnx", "export.precision=[fp32]", "epochs=2",
)  # fmt: skip
STEPS = "experiment=compress/02_teacher,compress/05_lite0_96,compress/10_lcnet_050"


def sweep(folder: Path, image_folder: Path, *more: str) -> subprocess.CompletedProcess:
    own = (f"data.root={image_folder}", f"hydra.sweep.dir={folder / 'compress'}", *more)
    return entry_points.run("train.py", "-m", *TINY, *own, cwd=folder)


def test_later_steps_use_earlier_checkpoints_and_files_are_ranked(image_folder, tmp_path):
    done = sweep(tmp_path, image_folder, STEPS)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "compress"
    rows = json.loads((folder / "leaderboard.json").read_text())
    names = {(row["name"], row.get("file")) for row in rows}
    assert names == {(n, f) for n in ("teacher", "lite0_96", "lcnet_050") for f in (None, "model-fp32.onnx")}
    for row in rows:
        assert row["status"] == "completed"
        assert row["ratio"] > 0  # the reference network is timed in the same run
        assert 0 <= row["test/f1_macro"] <= 1
    best = [row["val/f1_macro"] for row in rows if row["front"]]
    assert best
    assert max(row["val/f1_macro"] for row in rows) == pytest.approx(max(best))
    assert (folder / "leaderboard.png").stat().st_size > 0
    assert "model-fp32.onnx" in (folder / "leaderboard.md").read_text()
    with (folder / "leaderboard.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    config = (folder / "lite0_96-0" / "config.yaml").read_text()
    assert f"weights: {folder}/lite0_96-0/../teacher-0/best.ckpt" in config
    history = (folder / "lcnet_050-0" / "history.csv").read_text()
    assert "val/agreement" in history.splitlines()[0]

    history = (folder / "lite0_96-0" / "history.csv").read_text()
    evaluated = (folder / "lcnet_050-0" / "metrics.json").stat()
    exported = folder / "lite0_96-0" / "exported"  # without these files, as after a job that is killed in the export
    (exported / "export.json").unlink()
    (exported / "model-fp32.onnx").unlink()
    resumed = sweep(tmp_path, image_folder, STEPS, "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    assert (exported / "export.json").is_file()
    assert (exported / "model-fp32.onnx").is_file()
    assert (folder / "lite0_96-0" / "history.csv").read_text() == history  # no epoch is trained again
    assert (folder / "lcnet_050-0" / "metrics.json").stat() == evaluated
    again = {(row["name"], row.get("file")): row for row in json.loads((folder / "leaderboard.json").read_text())}
    assert again.keys() == names
    assert all(again[row["name"], row.get("file")]["test/f1_macro"] == row["test/f1_macro"] for row in rows)


def test_missing_export_package_is_an_error_before_training(image_folder, tmp_path, monkeypatch):
    import importlib.util

    from export import export_later
    from litesort.errors import DeploymentError

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DeploymentError, match=r"needs the package onnx: pip install -e '\.\[export\]'"):
        export_later(format=["onnx"], precision=["fp32"])


@pytest.mark.parametrize("setting", ["temperature=0", "max_drop=2", "calibration_images=0", "max_drop=abc"])
def test_invalid_export_setting_is_an_error_before_training(setting):
    from export import export_later
    from litesort.errors import ModelError

    key, _, value = setting.partition("=")
    with pytest.raises(ModelError, match=setting):
        export_later(format=["onnx"], precision=["fp32"], **{key: value if value == "abc" else int(value)})
