"""Class names that look like code or templates are written to every result file unchanged."""

import csv
import json
from pathlib import Path

import pytest
from configs import QUICK_LATENCY, QUIET_CPU, SMALL_FOLDER, TINY_NET, composed_quoted

from evaluate import main as evaluate_main
from export import export
from predict import predict
from train import train

NAMES = ["${oc.env:HOME}", "${x}", "{{7*7}}"]  # in the order of the class indices
TINY = (*TINY_NET, *SMALL_FOLDER, "trainer=smoke", *QUIET_CPU)


def configured(command: str, *overrides: str):
    quick = () if command == "predict" else QUICK_LATENCY
    return composed_quoted(command, *quick, *overrides)


def read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def check_names(folder: Path) -> None:
    """Check the class names in the files of an evaluation."""
    results = json.loads((folder / "metrics.json").read_text())
    rows = read_rows(folder / "predictions.csv")
    assert results["classes"] == NAMES
    assert {f"test/f1/{name}" for name in NAMES} <= results.keys()
    assert {row["label"] for row in rows} == set(NAMES)
    assert {row["prediction"] for row in rows} <= set(NAMES)
    assert {f"p_{name}" for name in NAMES} <= rows[0].keys()
    assert {row["file"].split("/")[0] for row in rows} == set(NAMES)


def test_class_names_are_written_unchanged(image_folder, tmp_path):
    pytest.importorskip("onnxruntime")
    root = tmp_path / "photos"
    for name, folder in zip(NAMES, sorted(image_folder.iterdir()), strict=True):
        (root / name).mkdir(parents=True)
        for file in folder.glob("*.jpg"):
            (root / name / file.name).write_bytes(file.read_bytes())
    run = tmp_path / "run"
    train(configured("train", *TINY, f"data.root={root}", f"run_dir={run}"))
    check_names(run)

    out = tmp_path / "exported"
    choice = ("format=onnx", "precision=fp32", "tolerance.fp32=0.01")
    report = export(configured("export", f"ckpt={run / 'best.ckpt'}", f"out={out}", *choice))
    assert [row["status"] for row in report["rows"]] == ["completed", "completed"]

    for kind, file in {"ckpt": run / "best.ckpt", "onnx": out / "model-fp32.onnx"}.items():
        evaluate_main.__wrapped__(configured("evaluate", f"ckpt={file}", f"run_dir={tmp_path / kind}"))
        check_names(tmp_path / kind)
        table = tmp_path / f"{kind}.csv"
        predict(configured("predict", f"ckpt={file}", f"source={root / NAMES[1]}", f"csv={table}"))
        rows = read_rows(table)
        assert len(rows) == 20
        assert {f"p_{name}" for name in NAMES} <= rows[0].keys()
        assert {row["prediction"] for row in rows} <= set(NAMES)
