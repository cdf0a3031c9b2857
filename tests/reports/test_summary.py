import io

import pytest
from rich.console import Console

from reports.summary import print_summary, rejection_lines

ENTRY = {"median_ms": 3.14159, "low_ms": 3.0, "high_ms": 3.5, "device": "cpu", "ratio": 0.32, "size": 96}
FILE = {"runtime": "ONNX Runtime", "ratio": 0.05, "ratio_same_runtime": 0.11, "unsteady": True}
METRICS = {
    "status": "completed", "model": "mobilenetv3", "origin": "hub", "data": "synthetic", "size": 96,
    "test/f1_macro": 0.7412, "test/f1/Metal": 0.9, "test/f1/[b]Paper[/b]": 0.6, "test/accuracy_micro": 0.8,
    "test/auroc_macro": 0.95, "test/ece": 0.031, "threshold": 0.91,
    "threshold_target": 0.95, "test/coverage": 0.62, "test/kept_accuracy": 0.961, "test/kept_accuracy_low": 0.93,
    "test/kept_accuracy_high": 0.98, "test/f1_macro_low": 0.7, "test/f1_macro_high": 0.78, "params": 4_200_000,
    "macs": 217_000_000, "score": 0.93, "score_name": "relative",
    "score_explained": "score 0.9300 = 0.5*61.3/43.16 + sigmoid(20*(0.7-0.7400))", "train_seconds": 83.0,
    "images_per_second": 1234.5,
    "latency": [
        {"clock": "model", "batch": 1, "threads": 1, "reference": "resnet18d",
         "entries": {"model": ENTRY, "resnet18d": ENTRY | {"size": 224}}},
        {"clock": "end_to_end", "batch": 32, "threads": 2, "reference": None,
         "entries": {"model": ENTRY | {"ratio": None}}},
        {"clock": "model", "batch": 4, "threads": 1, "reference": "resnet18d",
         "entries": {"model": ENTRY | FILE, "resnet18d": ENTRY | {"size": 224}}},
    ],
}  # fmt: skip


def shown(metrics, files=(), width=80):
    console = Console(width=width, file=io.StringIO())
    print_summary(metrics, files, console)
    return console.file.getvalue()


def test_print_summary_shows_every_measurement():
    words = " ".join(shown(METRICS).split())
    for part in (
        "mobilenetv3 · weights: hub · 96 px · synthetic, test split",
        "macro F1 0.7412 (95 % 0.7000 to 0.7800)",
        "Metal 0.9000", "[b]Paper[/b] 0.6000", "accuracy 0.8000", "AUROC 0.9500", "ECE 0.0310",
        "threshold reject below confidence 0.910 for 95% accuracy, chosen on validation images",
        "kept 62.0% of images, 96.1% of them right (95 % 93.0% to 98.0%)",
        "parameters 4.20 M", "MACs 217.00 M",
        "3.14 ms (3.00 to 3.50), model only, batch 1, cpu, 1 thread 0.320 × resnet18d at 224 px, eager",
        "3.14 ms (3.00 to 3.50), file to class, batch 32, cpu, 2 threads",
        "model only, batch 4, cpu, 1 thread: unsteady, measure again when the machine is idle 0.050 × resnet18d",
        "0.110 × the same in ONNX Runtime, fp32",
        "0.9300 (relative) = 0.5*61.3/43.16 + sigmoid(20*(0.7-0.7400)), lower is better",
        "1:23 min, 1,234 images/s",
    ):  # fmt: skip
        assert part in words


@pytest.mark.parametrize("width", [40, 80, 200])
def test_print_summary_fits_the_width(width):
    assert max(map(len, shown(METRICS, width=width).splitlines())) <= width


def test_print_summary_without_a_terminal_has_no_escape_codes():
    assert "\x1b" not in shown(METRICS)


def test_print_summary_shows_relative_paths_unwrapped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deep = tmp_path / "runs" / ("long-" * 20) / "best.ckpt"
    lines = shown(METRICS, [deep, tmp_path.parent / "elsewhere.csv"], width=40).splitlines()
    assert f"  runs/{'long-' * 20}/best.ckpt" in lines
    assert f"  {tmp_path.parent}/elsewhere.csv" in lines


def test_print_summary_leaves_out_missing_values():
    text = shown({"model": "lcnet_050", "origin": "scratch", "val/f1_macro": 0.5, "latency": None, "score": None})
    assert "from scratch" in text
    assert "validation split" in text
    assert "0.5000" in text
    assert not {"score", "latency", "AUROC", "files"} & set(text.split())


def test_print_summary_names_the_split():
    assert "synthetic, all images" in shown({**METRICS, "split": "all"}, width=120)


def test_rejection_lines_have_the_reason_without_a_threshold():
    row = {"split": "test", "threshold": None, "threshold_target": 0.95, "threshold_note": "too few"}
    assert list(rejection_lines(row)) == [("threshold", "none for 95% accuracy: too few")]


def test_print_summary_names_the_validation_split_without_a_test_split():
    assert "synthetic, validation split, because the data has no test split" in shown(
        METRICS | {"test_is_val": True}, width=120
    )
