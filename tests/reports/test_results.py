import json
import math
import os

import pytest

from reports.html.row_texts import details
from reports.html.table import table
from reports.ranking import rank
from reports.results import f1_by_class, f1_macro, failed, gather, model, number, one_line, overrides

DONE = {"status": "completed", "model": "resnet18d", "score": 0.9}


def write_job(folder, content):
    """Write metrics.json of a job: plain data, or raw text or bytes."""
    folder.mkdir(parents=True)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (folder / "metrics.json").write_bytes(text if isinstance(text, bytes) else text.encode())


def test_every_job_of_a_sweep_is_a_row(tmp_path):
    write_job(tmp_path / "0-fine", DONE)
    write_job(tmp_path / "1-failed", {"status": "failed", "error": "ModelError: no"})
    write_job(tmp_path / "2-half", '{"status": "comple')
    write_job(tmp_path / "3-list", "[1, 2]")
    write_job(tmp_path / "4-bytes", b"\xff\xfe\x00")
    write_job(tmp_path / "5-empty", "")
    write_job(tmp_path / "6-nostatus", {"score": 0.1})
    write_job(tmp_path / "7-deep" / "nested", DONE)
    write_job(tmp_path / "8-nested-json", "[" * 100_000)
    (tmp_path / "9-killed" / ".hydra").mkdir(parents=True)
    (tmp_path / "9-killed" / ".hydra" / "overrides.yaml").write_text(
        "- model=resnet50\n- 'name=a b'\n- resume=True\n- seed=2\n- data.group_by='([a-z]+)(\\d+)$'\n"
    )
    write_job(tmp_path / "wandb" / "offline-run", DONE)  # folders of W&B are skipped
    rows = gather(tmp_path)
    assert [row["folder"] for row in rows] == [
        "0-fine", "1-failed", "2-half", "3-list", "4-bytes",
        "5-empty", "6-nostatus", "7-deep/nested", "8-nested-json", "9-killed",
    ]  # fmt: skip
    assert [failed(row) for row in rows] == [False, True, True, True, True, True, True, False, True, True]
    assert rows[0] == DONE | {"folder": "0-fine"}
    assert rows[1]["error"] == "ModelError: no"
    assert all("cannot be read" in rows[i]["error"] for i in (2, 4, 5, 8))
    assert "list" in rows[3]["error"]
    assert "status None" in rows[6]["error"]
    assert "killed" in rows[9]["error"]
    assert overrides(rows[9]) == ["model=resnet50", "name=a b", "seed=2", r"data.group_by='([a-z]+)(\d+)$'"]
    assert (model(rows[9]), rows[9]["seed"]) == ("resnet50", 2)


def test_single_run_is_one_row(tmp_path):
    write_job(tmp_path / "run", DONE)
    assert gather(tmp_path / "run") == [DONE | {"folder": "."}]


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        gather(tmp_path / "nowhere")


def test_number_takes_finite_numbers_only():
    row = {"a": "0.5", "b": True, "c": math.inf, "d": None, "e": 10**400, "f": 2}
    assert all(math.isnan(number(row, key)) for key in "abcdex")
    assert number(row, "a", "f") == 2.0


def test_f1_is_of_the_evaluated_split():
    both = {"test/f1_macro": 0.7, "val/f1_macro": 0.8, "test/f1/A": 0.6, "val/f1/A": 0.9, "test/f1/A_spread": 0.01}
    assert f1_macro(both) == 0.7
    assert f1_by_class(both) == {"A": 0.6}
    assert f1_by_class({"val/f1_macro": 0.8, "val/f1/A": 0.9, "val/f1/B_spread": 0.5}) == {"A": 0.9, "B_spread": 0.5}


def test_one_line_removes_control_characters_and_cuts_long_text():
    assert one_line("a\n b\t\x1b[31mred\x07") == "a b [31mred"
    assert one_line("x" * 300) == "x" * 199 + "…"


def test_exported_files_are_rows_after_their_run(tmp_path):
    write_job(tmp_path / "a", DONE | {"name": "a", "seed": 1, "params": 5, "test/f1_macro": 0.9, "test/f1/x": 0.9})
    files = [
        {"file": "checkpoint", "status": "completed", "test/f1_macro": 0.9},
        {"file": "m-fp32.onnx", "status": "completed", "test/f1_macro": 0.8, "test/f1/x": 0.7, "ratio": 0.1},
        {"file": "m-int8.onnx", "status": "failed", "error": "no"},
        {"file": "m-int8.ncnn.param", "status": "not offered", "error": "never"},
    ]
    (tmp_path / "a" / "exported").mkdir()
    (tmp_path / "a" / "exported" / "export.json").write_text(json.dumps({"rows": files}))
    run, file, broken = gather(tmp_path)
    assert "file" not in run
    assert (file["file"], file["name"], file["seed"], file["params"], file["folder"]) == ("m-fp32.onnx", "a", 1, 5, "a")
    assert (f1_macro(file), f1_by_class(file), file["ratio"]) == (0.8, {"x": 0.7}, 0.1)
    assert failed(broken)
    (tmp_path / "a" / "exported-2").mkdir()
    (tmp_path / "a" / "exported-2" / "export.json").write_text(json.dumps({"rows": files[:2] + files[3:]}))
    os.utime(tmp_path / "a" / "exported" / "export.json", (1, 1))
    assert gather(tmp_path) == [run, file]  # rows of the latest export only
    os.utime(tmp_path / "a" / "exported-2" / "export.json", (0, 0))
    for damaged in ("", "[]", '{"rows": [1]}', '{"rows": null}'):
        (tmp_path / "a" / "exported" / "export.json").write_text(damaged)
        assert gather(tmp_path) == [run]


def test_exports_of_several_checkpoints_are_rows_with_the_checkpoint(tmp_path):
    """Each job of `export.py -m` writes export.json. A job with a failed file also has a failed row of its own."""
    for name, status in (("0", "completed"), ("1", "failed")):
        (tmp_path / name).mkdir()
        rows = [
            {"file": "checkpoint", "status": "completed", "test/f1_macro": 0.9, "latency_ms": 9.0, "path": "x"},
            {"file": "m-fp32.onnx", "status": status, "test/f1_macro": 0.8, "error": None},
        ]
        report = {"rows": rows, "split": "test", "ckpt": f"runs/{name}/best.ckpt", "model": "lite0", "name": "a"}
        (tmp_path / name / "export.json").write_text(json.dumps(report))
    (tmp_path / "1" / "metrics.json").write_text('{"status": "failed", "error": "1 of 1 files failed"}')
    checkpoint, file, broken, broken_file = gather(tmp_path)
    assert (checkpoint["ckpt"], checkpoint["model"], f1_macro(checkpoint)) == ("runs/0/best.ckpt", "lite0", 0.9)
    assert "file" not in checkpoint
    assert (file["file"], file["ckpt"], f1_macro(file)) == ("m-fp32.onnx", "runs/0/best.ckpt", 0.8)
    assert (broken["error"], broken_file["file"]) == ("1 of 1 files failed", "m-fp32.onnx")
    assert failed(broken_file)


def test_exported_files_have_the_metrics_of_the_split_that_the_export_evaluated(tmp_path):
    write_job(tmp_path / "a", DONE | {"split": "test", "test/f1_macro": 0.9})
    file = {"file": "m.onnx", "status": "completed", "val/f1_macro": 0.8, "all/f1_macro": 0.6, "all/f1/x": 0.5}
    (tmp_path / "a" / "exported").mkdir()
    (tmp_path / "a" / "exported" / "export.json").write_text(json.dumps({"split": "all", "rows": [file]}))
    run, exported = gather(tmp_path)
    assert (f1_macro(run), f1_macro(exported), f1_by_class(exported)) == (0.9, 0.6, {"x": 0.5})
    columns = {column.title: [cell.text for cell in column.cells] for column in table(rank([run, exported]))}
    assert columns["F1 x"] == ["", "0.50"]
    assert dict(details(exported))["macro F1"] == "0.6000"
