import csv
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from reports.export_report import add_times, checkpoint_row, evaluated_row, print_artifacts, recommend, write_artifacts
from reports.intervals import f1_loss_interval


def row(name, ms, lost=0.0, precision="fp32", **more):
    """Return the row of an exported file with `ms` latency and `lost` macro F1."""
    return {
        "file": name, "format": "onnx", "precision": precision, "status": "completed", "latency_ms": ms,
        "latency_p90_ms": ms, "ratio": ms / 10, "val/f1_macro": 0.9 - lost, "val/f1_lost": lost, "bytes": 1_000_000,
        "difference": 0.0, "agreement": 1.0, "error": None, **more,
    }  # fmt: skip


def test_recommended_file_is_as_fast_as_the_fastest_accurate_file_within_the_noise():
    random.seed(0)
    for _ in range(300):
        rows = []
        for number in range(random.randint(1, 6)):
            ms, noise = random.choice([1, 1.5, 2, 3]), random.choice([0, 0.1, 0.6])
            interval = {"latency_ms_low": ms - noise, "latency_ms_high": ms + noise}
            lost, precision = random.choice([0, 0.005, 0.02]), random.choice(["fp32", "int8"])
            rows.append(row(str(number), ms, lost, precision, **interval))
        chosen, _ = recommend(rows, 0.01)
        good = [each for each in rows if each["val/f1_lost"] < 0.01]
        assert (chosen is None) == (not good)
        if chosen is None:
            continue
        fastest = min(good, key=lambda each: each["latency_ms"])
        assert chosen["latency_ms_low"] <= fastest["latency_ms_high"]
        if chosen["precision"] == "int8":  # only if every fp32 file is slower beyond the noise
            exact = [each for each in good if each["precision"] == "fp32"]
            assert all(each["latency_ms_low"] > fastest["latency_ms_high"] for each in exact)


def test_the_more_exact_of_two_equally_fast_files_is_recommended():
    def pair(high):
        faster = row("b.onnx", 1.9, precision="int8", latency_ms_low=1.8, latency_ms_high=high)
        return [faster, row("a.onnx", 2.0, latency_ms_low=1.95, latency_ms_high=2.1)]

    chosen, reason = recommend(pair(1.96), 0.01)
    assert chosen["file"] == "a.onnx"
    assert "as fast as b.onnx within the noise" in reason
    assert recommend(pair(1.94), 0.01)[0]["file"] == "b.onnx"


def test_reason_names_why_int8_is_not_recommended():
    chosen, reason = recommend([row("a.onnx", 2.0), row("b.onnx", 2.5, precision="int8")], 0.01)
    assert chosen["file"] == "a.onnx"
    assert "int8 is not faster" in reason
    chosen, reason = recommend([row("b.onnx", 2.0, precision="int8"), row("a.onnx", 2.0)], 0.01)
    assert chosen["file"] == "a.onnx"  # of equally fast files, the more exact one
    chosen, reason = recommend([row("a.onnx", 2.0), row("b.onnx", 1.0, 0.05, "int8")], 0.01)
    assert chosen["file"] == "a.onnx"
    assert "int8 loses 0.050" in reason


def test_failed_and_unmeasured_files_are_never_recommended():
    failed = row("a", 0.1) | {"status": "failed"}
    unmeasured = row("b", float("nan"))
    chosen, reason = recommend([failed, unmeasured], 0.01)
    assert chosen is None
    assert "no file was written" in reason
    assert "macro F1" not in reason  # macro F1 is not the reason
    assert recommend([failed, unmeasured, row("c", 9.0)], 0.01)[0]["file"] == "c"
    assert "raise max_drop" in recommend([row("c", 9.0, 0.5)], 0.01)[1]


@pytest.fixture(scope="module")
def evaluated():
    """Targets (90,), and probabilities (90, 4) of a checkpoint and of a file that confuses the third class more often.

    The fourth class has no image.
    """
    random = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], 30)
    before = np.where(random.random(90) < 0.9, targets, 0)
    after = np.where((targets == 2) & (random.random(90) < 0.4), 1, before)
    return targets, *(np.eye(4)[predictions] * 0.7 + 0.075 for predictions in (before, after))


def test_evaluated_row_has_f1_by_class_and_a_paired_interval(evaluated):
    targets, reference, probabilities = evaluated
    classes = ["a", "b", "c", "none"]
    found = evaluated_row(row("m.onnx", 1.0, threshold=0.5), "test", targets, probabilities, reference, classes)
    assert found["worst_class"] == "c"
    own = evaluated_row(checkpoint_row("no.ckpt", 0.9, 7), "test", targets, reference, reference, classes)
    assert found["worst_class_change"] == pytest.approx(found["test/f1/c"] - own["test/f1/c"])
    assert found["worst_class_change"] < 0
    assert found["test/f1_lost"] == pytest.approx(own["test/f1_macro"] - found["test/f1_macro"])
    expected = f1_loss_interval(targets, reference.argmax(1), probabilities.argmax(1), 4)
    assert (found["test/f1_lost_low"], found["test/f1_lost_high"]) == expected
    assert found["test/f1_macro_low"] < found["test/f1_macro"] < found["test/f1_macro_high"]
    assert found["test/coverage"] == 1
    assert (own["test/f1_lost"], "worst_class" in own, "test/f1/none" in own) == (0, False, False)
    chosen_here = evaluated_row(row("m", 1.0, threshold=0.5), "val", targets, probabilities, reference, classes, True)
    assert "val/coverage" not in chosen_here


def test_rows_are_timed_printed_and_written(evaluated, tmp_path):
    times = {"checkpoint": 8, "a": 2}

    def time_of(file):
        measured = {"latency_ms": times[file], "ratio": times[file] / 10, "ratio_same_runtime": None}
        return measured | {"unsteady": file == "a", "reference": "resnet18d 224 px"}

    failed = {"file": "b", "status": "failed", "error": "why not", "format": "onnx", "precision": "fp32"}
    rows = add_times(
        [checkpoint_row("no.ckpt", 0.9, 7), row("a", 0.0, threshold=0.5, threshold_target=0.9), failed], time_of
    )
    assert [each.get("latency_ms") for each in rows] == [8, 2, None]
    chosen, reason = recommend(rows[1:], 0.01)
    targets, reference, probabilities = evaluated
    names = ["one", "two", "three", "four"]
    rows = [
        evaluated_row(each, "test", targets, probabilities, reference, names) | {"score": 0.5}
        if each["status"] == "completed"
        else each
        for each in rows
    ]
    text = io.StringIO()
    calibration = {"temperature": 1.5, "ece_before": 0.1, "ece_after": 0.02}
    report = {"rows": rows, "split": "test", "images": 90, "test/f1_macro": 0.9}
    print_artifacts(rows, chosen["file"], reason, calibration, report, Console(file=text, width=120))
    words = " ".join(text.getvalue().split())
    assert "recommended: a, the only suitable file" in words
    assert "0.1000 before, 0.0200 after" in words
    assert "b: why" in words
    assert "~2.00" in words
    assert "~: the time did not settle" in words
    assert "that of resnet18d 224 px in PyTorch" in words
    assert "On the test split, 90 images" in words
    assert "threshold: reject below confidence 0.500 for 90% accuracy" in words
    assert f"three {rows[1]['worst_class_change']:+.3f}" in words
    narrow = io.StringIO()
    named = [rows[0], *(row | {"file": f"{row['file']}-fp32.ncnn.param"} for row in rows[1:])]
    print_artifacts(named, None, reason, calibration, report, Console(file=narrow, width=80))
    results = narrow.getvalue().split("On the test split")[1]
    assert all(row["file"] in results and f"{row['score']:.3f}" in results for row in named if "score" in row)
    written = write_artifacts(tmp_path, report, rows)
    assert [path.name for path in written] == ["export.json", "export.csv"]
    assert json.loads(written[0].read_text())["rows"][1]["file"] == "a"
    with Path(written[1]).open() as file:
        table = list(csv.DictReader(file))
    assert [each["status"] for each in table] == ["completed", "completed", "failed"]
    assert float(table[1]["test/f1/three"]) == pytest.approx(rows[1]["test/f1/three"])
