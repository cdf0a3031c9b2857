import csv
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from litesort.io import plain
from reports.leaderboard import duration, main, markdown, print_table, write
from reports.ranking import differences, group_seeds, rank

NUMBER = st.one_of(
    st.none(), st.just(math.nan), st.just(math.inf), st.sampled_from([0.25, 0.5, 0.75, 1.5]), st.text(max_size=2)
)
ROW = st.fixed_dictionaries(
    {"status": st.sampled_from(["completed", "failed"])},
    optional={"score": NUMBER, "test/f1_macro": NUMBER, "latency_ms": NUMBER, "model": st.text(max_size=3)},
)  # fmt: skip


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
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        print_table(rows, console)
        return console.export_text()


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROW, max_size=8), st.randoms(use_true_random=False))
def test_ranking_is_total_and_does_not_depend_on_the_order_given(rows, random):
    ranked = rank(rows)
    shuffled = random.sample(rows, len(rows))
    assert plain(rank(shuffled)) == plain(ranked)  # NaN, infinity and None all mean: not known
    assert len(ranked) == len(rows)
    states = [row["status"] for row in ranked]
    assert states == sorted(states)  # completed before failed
    assert all(row["rank"] is None for row in ranked if row["status"] == "failed")
    done = [row for row in ranked if row["status"] == "completed"]
    scored = [isinstance(row.get("score"), float) and math.isfinite(row["score"]) for row in done]
    assert scored == sorted(scored, reverse=True)  # with a score before without
    scores = [row["score"] for row, known in zip(done, scored, strict=True) if known]
    assert scores == sorted(scores)
    ranks = [row["rank"] for row in done if row["rank"] is not None]
    assert all(rank == 1 + sum(other < rank for other in ranks) for rank in ranks)


def test_equal_scores_share_a_rank_and_the_better_f1_comes_first():
    ranked = rank([run("a", f1=0.6), run("b", f1=0.8), run("c", score=0.5), run("d", score=2.0)])
    assert [(row["rank"], row["model"]) for row in ranked] == [(1, "c"), (2, "b"), (2, "a"), (4, "d")]


def test_without_a_score_macro_f1_ranks():
    ranked = rank([run("a", score=None, f1=0.6), run("b", score=math.nan, f1=0.8), run("c", score=None, f1=math.nan)])
    assert [(row["rank"], row["model"]) for row in ranked] == [(1, "b"), (2, "a"), (None, "c")]


def test_ranking_leaves_its_input_alone():
    rows = [run(), BROKEN]
    before = json.dumps(rows)
    rank(rows)
    group_seeds(rows)
    assert json.dumps(rows) == before


def test_seeds_of_one_setting_become_mean_and_spread():
    scores = [1.0, 1.2, 1.7]
    rows = [run("a", seed, score) for seed, score in enumerate(scores)]
    others = [run("a", 0, 1.0, 0.7, 10.0, "augment=none"), run("b", 0), BROKEN, BROKEN]
    grouped = group_seeds([*rows, *others])
    assert len(grouped) == 5
    folded = grouped[0]
    assert folded["score"] == pytest.approx(statistics.fmean(scores))
    assert folded["score_spread"] == pytest.approx(statistics.stdev(scores))
    assert (folded["seeds"], folded["runs"], folded["model"]) == ([0, 1, 2], 3, "a")
    assert "seed" not in folded
    assert grouped[1:] == others


def test_pretrained_and_scratch_are_not_averaged():
    assert len(group_seeds([run(seed=0), run(seed=1, origin="hub")])) == 2


def test_differences_leave_out_what_all_share():
    rows = [run("a", 0, 1, 1, 1, "data=folder", "size=96"), run("b", 1, 1, 1, 1, "data=folder", "size=64"), {}]
    assert differences(rows[:2]) == ["size=96", "size=64"]
    assert differences(rows) == ["data=folder size=96", "data=folder size=64", ""]
    assert differences(rows[:1]) == ["data=folder size=96"]
    assert differences([]) == []


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_table_fits_and_tells_what_matters(width):
    text = printed(ROWS, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    order = [line for line in lines if line.startswith(("1  ", "2  ", "3  ", "–  "))]
    assert [line.split()[1] for line in order] == ["lcnet_050", "resnet18d", "resnet50", "x"]
    assert "0.9000" in order[0]
    assert "0.6200" in order[0]
    words = " ".join(text.split())
    assert "failed: ModelError" in words
    assert "1 of 4 runs failed." in words
    assert ("MACs M" in text) == (width == 200)  # the first to go


def test_markup_in_rows_is_shown_not_obeyed():
    text = printed(ROWS, 300)
    assert "callbacks=[default,ema]" in text
    assert "choose [red]another[/red]" in text


def test_the_mean_table_is_there_only_for_several_seeds():
    assert "over seeds" not in printed(ROWS, 120)
    text = printed([run("a", 0, 1.0), run("a", 1, 1.2)], 120)
    assert "over seeds" in text
    assert "1.1000 ±0.1414" in text


def test_scores_of_two_kinds_are_called_out():
    assert "boostcamp, relative" in markdown([run(), run(score_name="boostcamp")])


def test_markdown_keeps_its_columns_whatever_the_error_says():
    lines = [line for line in markdown(ROWS).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(ROWS)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "x\\|y is unknown: choose" in lines[-1]


def test_written_files_hold_every_run(tmp_path):
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


def test_a_sweep_in_which_all_failed_still_has_its_leaderboard(tmp_path):
    paths = write([BROKEN, BROKEN], tmp_path)
    assert [path.suffix for path in paths] == [".csv", ".json", ".md"]
    assert write([], tmp_path)[0].read_text().startswith("rank,status,error")


def test_the_command_ranks_any_folders(tmp_path):
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


def test_the_command_says_in_one_line_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([str(tmp_path)]) == 2
    missing, empty = capsys.readouterr().err.splitlines()
    assert "nowhere is not a folder" in missing
    assert "no metrics.json" in empty


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.97, "1:00 min"), (3599.6, "1:00 h"), (math.nan, "")]
)
def test_durations_carry_over(seconds, text):
    assert duration(seconds) == text


def test_files_stand_beside_runs_with_their_speed_and_the_front(tmp_path):
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
    assert "10.0" in line  # times as fast as the reference
    assert "●" in line
    assert "6.7" in line
    write(rows, tmp_path)
    assert (tmp_path / "leaderboard.png").stat().st_size > 0
    # another moment's milliseconds do not decide where ratios are known
    slow = [run("a", 0, 1.0, 0.8, 5.0, ratio=0.5), run("b", 0, 1.0, 0.7, 6.0, ratio=0.1)]
    assert [row["front"] for row in rank(slow)] == [True, True]
