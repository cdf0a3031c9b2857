import csv
import io
import json
import random
from pathlib import Path

from rich.console import Console

from reports.export_report import checkpoint_row, print_artifacts, recommend, timed, write_artifacts


def row(name, ms, lost=0.0, precision="fp32", **more):
    return {
        "file": name, "format": "onnx", "precision": precision, "status": "completed", "latency_ms": ms,
        "latency_p90_ms": ms, "ratio": ms / 10, "f1_macro": 0.9 - lost, "f1_lost": lost, "bytes": 1_000_000,
        "difference": 0.0, "agreement": 1.0, "score": 0.5, "error": None, **more,
    }  # fmt: skip


def test_never_recommends_a_slower_file_than_another_that_is_good_enough():
    random.seed(0)
    for _ in range(300):
        rows = [
            row(str(i), random.choice([1, 1.5, 2, 3]), random.choice([0, 0.005, 0.02]), random.choice(["fp32", "int8"]))
            for i in range(random.randint(1, 6))
        ]
        chosen, _ = recommend(rows, 0.01)
        good = [each for each in rows if each["f1_lost"] < 0.01]
        assert (chosen is None) == (not good)
        if chosen is not None:
            assert chosen["latency_ms"] == min(each["latency_ms"] for each in good)


def test_int8_that_is_not_faster_is_not_chosen_and_the_reason_says_so():
    chosen, reason = recommend([row("a.onnx", 2.0), row("b.onnx", 2.5, precision="int8")], 0.01)
    assert chosen["file"] == "a.onnx"
    assert "int8 is not faster" in reason
    chosen, reason = recommend([row("b.onnx", 2.0, precision="int8"), row("a.onnx", 2.0)], 0.01)
    assert chosen["file"] == "a.onnx"  # as fast: the more exact
    chosen, reason = recommend([row("a.onnx", 2.0), row("b.onnx", 1.0, 0.05, "int8")], 0.01)
    assert chosen["file"] == "a.onnx"
    assert "int8 loses 0.050" in reason


def test_what_failed_or_was_not_measured_is_never_chosen():
    failed = row("a", 0.1) | {"status": "failed"}
    unmeasured = row("b", float("nan"))
    chosen, reason = recommend([failed, unmeasured], 0.01)
    assert chosen is None
    assert "no file was written" in reason  # no word of macro F1, which was not the trouble
    assert recommend([failed, unmeasured, row("c", 9.0)], 0.01)[0]["file"] == "c"
    assert "raise max_drop" in recommend([row("c", 9.0, 0.5)], 0.01)[1]


def test_times_and_scores_come_from_the_records(tmp_path):
    times = {"checkpoint": 8, "a": 2}

    def time_of(file):
        known = {"latency_ms": times[file], "ratio": times[file] / 10, "ratio_same_runtime": None}
        return known | {"unsteady": file == "a", "reference": "resnet18d 224 px"}

    failed = {"file": "b", "status": "failed", "error": "why not"}
    rows = [checkpoint_row("no.ckpt", {"f1_macro": 0.9}), row("a", 0.0), failed]
    result = timed(rows, time_of, lambda row: {"score": row["f1_macro"], "score_of": row["file"]})
    assert [each.get("latency_ms") for each in result] == [8, 2, None]
    assert result[1]["score_of"] == "a"
    result[2] |= {"format": "onnx", "precision": "fp32"}
    chosen, reason = recommend(result[1:], 0.01)
    text = io.StringIO()
    calibration = {"temperature": 1.5, "ece_before": 0.1, "ece_after": 0.02}
    print_artifacts(result, chosen, reason, calibration, Console(file=text, width=80))
    assert "recommended: a, the only one" in text.getvalue()
    assert "~2.00" in text.getvalue()
    assert "~: the time did not settle" in text.getvalue()
    assert "that of resnet18d 224 px in PyTorch" in text.getvalue()
    assert "0.1000 before, 0.0200 after" in " ".join(text.getvalue().split())
    assert "b: why" in text.getvalue()
    written = write_artifacts(tmp_path, {"rows": result}, result)
    assert [path.name for path in written] == ["export.json", "export.csv"]
    assert json.loads(written[0].read_text())["rows"][1]["file"] == "a"
    with Path(written[1]).open() as file:
        assert [each["status"] for each in csv.DictReader(file)] == ["completed", "completed", "failed"]
