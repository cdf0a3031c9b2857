"""Order of rows, averages over seeds and folds, and names that distinguish rows."""

import json
import math
import statistics

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litesort.io import plain
from reports.ranking import averaged_over, axes, differences, group_seeds, labels, rank, rank_score

NUMBER = st.one_of(
    st.none(), st.just(math.nan), st.just(math.inf), st.sampled_from([0.25, 0.5, 0.75, 1.5]), st.text(max_size=2)
)
ROW = st.fixed_dictionaries(
    {"status": st.sampled_from(["completed", "failed"])},
    optional={"score": NUMBER, "test/f1_macro": NUMBER, "latency_ms": NUMBER, "model": st.text(max_size=3)},
)  # fmt: skip
BROKEN = {"status": "failed", "error": "no", "overrides": ["model=x"]}
SCORE = {"time": "relative", "base_time": 43.16, "reference_time": 61.26}


def run(model="resnet18d", seed=0, score=1.0, f1=0.7, latency=10.0, *extra, **more):
    return {
        "status": "completed", "name": model, "model": model, "origin": "scratch", "seed": seed, "score": score,
        "overrides": [f"model={model}", f"seed={seed}", *extra], "test/f1_macro": f1, "latency_ms": latency,
    } | more  # fmt: skip


def evaluation(ckpt, **more):
    return {
        "status": "completed",
        "name": "a",
        "model": "a",
        "ckpt": ckpt,
        "split": "test",
        "test/f1_macro": 0.7,
    } | more


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROW, max_size=8), st.randoms(use_true_random=False))
def test_ranking_is_total_and_does_not_depend_on_the_order_given(rows, random):
    ranked = rank(rows)
    shuffled = random.sample(rows, len(rows))
    assert plain(rank(shuffled)) == plain(ranked)  # `plain` maps NaN and infinity to None
    assert len(ranked) == len(rows)
    states = [row["status"] for row in ranked]
    assert states == sorted(states)  # completed before failed
    assert all(row["rank"] is None for row in ranked if row["status"] == "failed")
    done = [row for row in ranked if row["status"] == "completed"]
    scored = [isinstance(row.get("score"), float) and math.isfinite(row["score"]) for row in done]
    assert scored == sorted(scored, reverse=True)  # rows with a score come first
    scores = [row["score"] for row, has_score in zip(done, scored, strict=True) if has_score]
    assert scores == sorted(scores)
    ranks = [row["rank"] for row in done if row["rank"] is not None]
    assert all(rank == 1 + sum(other < rank for other in ranks) for rank in ranks)


def test_equal_scores_share_a_rank_and_the_higher_f1_comes_first():
    ranked = rank([run("a", f1=0.6), run("b", f1=0.8), run("c", score=0.5), run("d", score=2.0)])
    assert [(row["rank"], row["model"]) for row in ranked] == [(1, "c"), (2, "b"), (2, "a"), (4, "d")]


def test_rows_without_a_score_are_ranked_by_macro_f1():
    ranked = rank([run("a", score=None, f1=0.6), run("b", score=math.nan, f1=0.8), run("c", score=None, f1=math.nan)])
    assert [(row["rank"], row["model"]) for row in ranked] == [(1, "b"), (2, "a"), (None, "c")]


def test_ranking_does_not_change_its_input():
    rows = [run(), BROKEN]
    before = json.dumps(rows)
    rank(rows)
    group_seeds(rows)
    assert json.dumps(rows) == before


def test_seeds_of_one_setting_are_averaged():
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


def test_differences_leave_out_common_settings():
    rows = [run("a", 0, 1, 1, 1, "data=folder", "size=96"), run("b", 1, 1, 1, 1, "data=folder", "size=64"), {}]
    assert differences(rows[:2]) == ["size=96", "size=64"]
    assert differences(rows) == ["data=folder size=96", "data=folder size=64", ""]
    assert differences(rows[:1]) == [""]  # a single row has no difference
    assert differences([]) == []


def test_rows_with_a_validation_score_are_ranked_first():
    chosen = [run("a", score=0.1, **{"val/score": 0.9}), run("b", score=0.8, **{"val/score": 0.5})]
    ranked = rank([*chosen, run("c", score=0.01), run("d", score=None, f1=0.9)])
    assert [(row["rank"], row["model"], row.get("ranked_by")) for row in ranked] == [
        (1, "b", "val/score"), (2, "a", "val/score"), (3, "c", "score"), (4, "d", None),
    ]  # fmt: skip


def test_files_are_ranked_by_the_time_in_their_own_runtime():
    """The speed-up that a runtime gives to any network, such as the reference, does not count."""
    times = {"score_parameters": SCORE, "val/score": 0.30, "val/f1_macro": 0.8}
    rows = [
        run("fast", **times, file="fast.onnx", runtime="onnx", ratio=0.04, ratio_same_runtime=0.05),
        run("slow", **times | {"val/score": 0.29}, file="s.xml", runtime="ov", ratio=0.03, ratio_same_runtime=0.08),
        run("net", **times | {"val/score": 0.45}, ratio=0.3, ratio_same_runtime=0.3, runtime="eager"),
    ]  # fmt: skip
    ranked = rank(rows)
    assert [row["model"] for row in ranked] == ["fast", "slow", "net"]
    assert ranked[0]["rank_score"] == pytest.approx(0.30 + 0.5 * 61.26 / 43.16 * 0.01)
    assert ranked[2]["rank_score"] == 0.45  # a checkpoint keeps its score
    assert rank_score(rows[0] | {"score_parameters": SCORE | {"time": "end_to_end"}})[1] == 0.30
    shown = axes(rows)
    assert (shown.time, shown.f1) == ("ratio_same_runtime", "val/f1_macro")
    assert shown.point(rows[0]) == (0.05, 0.8)
    assert [row["front"] for row in ranked] == [True, False, False]
    assert axes([*rows, run("old", ratio=0.2)]).time == "ratio"
    assert axes([*rows, run("older")]).time == "latency_ms"


@pytest.mark.parametrize(
    "other",
    [
        {"split": "all"}, {"threads": 4}, {"reference": "resnet50 224 px"}, {"precision": "bf16-mixed"},
        {"format": "onnx"}, {"runtime": "onnx"}, {"file": "b.onnx"}, {"machine": {"cpu": "B", "load": 1.0}},
        {"score_parameters": {"base_time": 50}}, {"size": 96}, {"overrides": ["model=resnet18d", "seed=1", "x=1"]},
    ],
)  # fmt: skip
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(other):
    common = {"split": "test", "threads": 1, "precision": "32-true", "machine": {"cpu": "A", "load": 0.5}}
    one, two = run(seed=0, **common), run(seed=1, **common | {"machine": {"cpu": "A", "load": 3.5}})
    assert len(group_seeds([one, two])) == 1
    assert len(group_seeds([one, two | other])) == 2


def test_evaluations_and_repetitions_are_not_averaged():
    rows = [evaluation("A/best.ckpt"), evaluation("B/best.ckpt"), evaluation("A/best.ckpt")]
    assert group_seeds(rows) == rows
    assert labels(rows[:2]) == ["a ckpt=A/best.ckpt", "a ckpt=B/best.ckpt"]
    again = [run(seed=0), run(seed=1), run(seed=1)]
    assert [row.get("seeds", row.get("seed")) for row in group_seeds(again)] == [[0, 1], 1]


def test_folds_are_averaged():
    rows = [run("a", 0, 1.0, 0.6 + fold / 10, 10.0, f"data.fold={fold}", "data.folds=3") for fold in range(3)]
    (folded,) = group_seeds(rows)
    assert (folded["folds"], folded["runs"]) == ([0, 1, 2], 3)
    assert folded["test/f1_macro"] == pytest.approx(0.7)
    assert averaged_over([folded]) == "folds"
    assert labels(rows) == ["a fold 0", "a fold 1", "a fold 2"]
    both = [run("a", seed, 1.0, 0.6, 10.0, f"data.fold={fold}") for seed in (0, 1) for fold in (0, 1)]
    (folded,) = group_seeds(both)
    assert (folded["folds"], folded["seeds"], averaged_over([folded])) == ([0, 1], [0, 1], "seeds and folds")


def test_intervals_of_single_runs_are_not_averaged():
    low = {"test/f1_macro_low": 0.6, "unsteady": False}
    (folded,) = group_seeds([run(seed=0, **low), run(seed=1, **low | {"unsteady": True})])
    assert "test/f1_macro_low" not in folded
    assert folded["unsteady"] is True


def test_equal_threads_of_averaged_rows_are_not_in_labels():
    rows = [run("a", 0, 1, 1, 1, threads=1), run("a", 1, 1, 1, 1, threads=1), run("b", 0, 1, 1, 1, threads=1)]
    assert labels(group_seeds(rows)) == ["a", "b"]


def test_labels_of_files_of_different_runs_are_unique():
    file = {"file": "model-int8.xml", "format": "openvino", "precision": "int8"}
    rows = [run("lite0", seed, 1, 1, 1, f"optimizer.lr={lr}", **file) for lr in (0.1, 0.2) for seed in (0, 1)]
    names = labels(rows)
    assert len(set(names)) == 4
    assert names[0] == "lite0 openvino int8 lr=0.1 seed 0"
    assert labels(group_seeds(rows)) == ["lite0 openvino int8 lr=0.1", "lite0 openvino int8 lr=0.2"]
    assert labels([run(), run()]) == ["resnet18d #1", "resnet18d #2"]
