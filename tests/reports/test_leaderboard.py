import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from reports.leaderboard import duration, main, markdown, notes, print_table, rules, write
from reports.ranking import rank


def run(model="resnet18d", seed=0, score=1.0, f1=0.7, latency=10.0, *extra, **more):
    return {
        "status": "completed", "error": None, "name": model, "model": model, "origin": "scratch", "seed": seed,
        "overrides": [f"model={model}", f"seed={seed}", *extra], "score": score, "score_name": "relative",
        "test/f1_macro": f1, "test/f1/Metal": f1 - 0.1, "test/f1/Paper": f1 + 0.1, "test/accuracy_micro": f1,
        "latency_ms": latency, "params": 11.2e6, "macs": 1.8e9, "train_seconds": 125.0, "latency": [{"clock": "model"}],
    } | more  # fmt: skip


BROKEN = {
    "status": "failed",
    "error": "ModelError: model.name=x|y is unknown:\nchoose [red]another[/red]",
    "overrides": ["model=x", "callbacks=[default,ema]"],
}
ROWS = [run("resnet50", 0, 1.4, 0.75, 60.0), BROKEN, run("lcnet_050", 0, 0.9, 0.62, 2.0), run("resnet18d", 0, 1.1, 0.8)]


def printed(rows, width):
    console = Console(width=width, file=io.StringIO())
    print_table(rows, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_table_fits_the_width_and_keeps_the_important_columns(width):
    text = printed(ROWS, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    order = [line for line in lines if line.startswith(("1  ", "2  ", "3  ", "–  "))]
    assert [line.split()[1] for line in order] == ["lcnet_050", "resnet18d", "resnet50", "x"]
    assert "0.9000" in order[0]
    assert "0.6200" in order[0]
    words = " ".join(text.split())
    assert "failed: x callbacks=[default,ema]: ModelError" in words
    assert "1 of 4 runs failed." in words
    assert ("weakest class" in text) == (width >= 120)  # removed early on a narrow terminal


def test_markup_in_rows_is_shown_as_text():
    text = printed(ROWS, 300)
    assert "callbacks=[default,ema]" in text
    assert "choose [red]another[/red]" in text


def test_table_of_means_is_printed_for_several_seeds_only():
    assert "over seeds" not in printed(ROWS, 120)
    text = printed([run("a", 0, 1.0), run("a", 1, 1.2)], 120)
    assert "over seeds" in text
    assert "1.1000 ±0.1414" in text


def test_scores_of_different_kinds_are_noted():
    assert "boostcamp, relative" in markdown([run(), run(score_name="boostcamp")])


def test_markdown_escapes_errors_so_that_columns_stay():
    lines = [line for line in markdown(ROWS).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(ROWS)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "x\\|y is unknown: choose" in lines[-1]


def test_written_files_contain_every_run(tmp_path):
    paths = write(ROWS, tmp_path / "sweep")
    assert [path.name for path in paths] == ["leaderboard.csv", "leaderboard.json", "leaderboard.md", "leaderboard.png"]
    with paths[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["lcnet_050", "resnet18d", "resnet50", ""]
    assert [row["rank"] for row in rows] == ["1", "2", "3", ""]
    assert float(rows[0]["test/f1/Metal"]) == 0.52
    assert rows[3]["error"] == BROKEN["error"]
    assert "latency" not in rows[0]
    ranked = json.loads(paths[1].read_text())
    assert [row["score"] for row in ranked[:3]] == [0.9, 1.1, 1.4]
    assert ranked[0]["latency"] == [{"clock": "model"}]
    assert paths[3].read_bytes().startswith(b"\x89PNG")


def test_sweep_without_a_completed_run_has_a_leaderboard_without_a_chart(tmp_path):
    paths = write([BROKEN, BROKEN], tmp_path)
    assert [path.suffix for path in paths] == [".csv", ".json", ".md"]
    assert write([], tmp_path)[0].read_text().startswith("rank,status,error")


def test_command_ranks_the_runs_of_several_folders(tmp_path):
    for number, row in enumerate(ROWS):
        folder = tmp_path / f"sweep{number % 2}" / str(number)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(row))
    command = [sys.executable, "-m", "reports.leaderboard", str(tmp_path / "sweep0"), str(tmp_path / "sweep1")]
    result = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "lcnet_050" in result.stdout
    assert str(tmp_path / "out" / "leaderboard.md") in result.stdout
    rows = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert [row["folder"] for row in rows if row["status"] == "failed"] == [str(tmp_path / "sweep1" / "1")]


def test_command_reports_errors_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([str(tmp_path)]) == 2
    missing, empty = capsys.readouterr().err.splitlines()
    assert "nowhere is not a folder" in missing
    assert "no metrics.json" in empty


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.97, "1:00 min"), (3599.6, "1:00 h"), (math.nan, "")]
)
def test_duration_is_rounded_before_it_is_split_into_units(seconds, text):
    assert duration(seconds) == text


def test_exported_files_have_rows_with_speed_and_front(tmp_path):
    files = [
        run("lite0", 0, 0.5, 0.85, 4.0, file="m-fp32.xml", ratio=0.1, bytes=6_700_000),
        run("lite0", 0, 0.7, 0.60, 9.0, file="m-int8.xml", ratio=0.2, bytes=3_500_000),
        BROKEN | {"file": "m-int8.onnx"},
    ]
    rows = [run("lite0", 0, 0.9, 0.85, 16.0, ratio=0.4), *files]
    ranked = {row.get("file"): row for row in rank(rows)}
    assert [ranked[name]["front"] for name in ("m-fp32.xml", "m-int8.xml", None)] == [True, False, False]
    text = printed(rows, 200)
    assert "1 of 3 files failed." in text
    line = next(line for line in text.splitlines() if "m-fp32.xml" in line)
    assert "10.0" in line  # × faster: 1 / 0.1
    assert any("eager" in line and " 2.5 " in line for line in text.splitlines())  # the checkpoint, 1 / 0.4
    assert "●" in line
    assert "6.7" in line
    write(rows, tmp_path)
    assert (tmp_path / "leaderboard.png").stat().st_size > 0
    # With ratios, the front does not depend on milliseconds, which change from one measurement to the next.
    slow = [run("a", 0, 1.0, 0.8, 5.0, ratio=0.5), run("b", 0, 1.0, 0.7, 6.0, ratio=0.1)]
    assert [row["front"] for row in rank(slow)] == [True, True]


def test_rules_of_the_ranking_are_below_the_table():
    evaluated = [run("a", 0, 0.4, 0.8, **{"val/score": 0.6, "val/f1_macro": 0.7}), run("b", 0, 0.5, 0.7)]
    assert rules(evaluated[:1])[0].startswith("Ranked by val/score, the score on validation images")
    assert "The test columns evaluate the choice" in rules(evaluated[:1])[0]
    assert rules(evaluated)[1] == "Rows without val/score follow, ranked by the score of their evaluated images."
    assert "because no row has a val/score" in rules(evaluated[1:])[0]
    assert rules([BROKEN]) == []
    text = printed(evaluated, 160)
    header = next(line for line in text.splitlines() if "F1 val" in line)
    assert "F1 test" in header
    first = next(line for line in text.splitlines() if line.startswith("1  a"))
    assert [part in first for part in ("0.6000", "0.7000", "0.8000", "eager")] == [True] * 4
    assert "Ranked by val/score" in " ".join(text.split())
    assert "Ranked by val/score" in markdown(evaluated)


def test_rows_that_are_not_comparable_are_noted():
    settings = {"base_time": 43.16, "reference_size": 224}
    same = [run("a", score_parameters=settings, threads=1, reference="resnet18d 224 px", machine={"cpu": "A"})] * 2
    assert notes(same) == []
    other = run("b", score_parameters=settings | {"base_time": 50.0}, threads=4, reference="x", machine={"cpu": "B"})
    text = " ".join(notes([same[0], other]))
    for part in ("score.base_time is 43.16, 50.0", "threads are not comparable: 1, 4", "resnet18d 224 px, x", "A, B"):
        assert part in text
    assert "did not settle" in notes([run(unsteady=True)])[0]
    assert "10.00 ~" in printed([run(unsteady=True)], 160)


def test_run_that_is_found_twice_counts_once(tmp_path, capsys):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "metrics.json").write_text(json.dumps(run(seed=seed)))
    assert main([str(tmp_path), str(tmp_path / "0"), f"{tmp_path}/./", "--out", str(tmp_path / "out")]) == 0
    assert len(json.loads((tmp_path / "out" / "leaderboard.json").read_text())) == 2
    assert "±0.0000" in capsys.readouterr().out


def test_markdown_escapes_links():
    assert "\\[l\\](javascript:alert(1))" in markdown([run("[l](javascript:alert(1))")])
