import math

import pytest
from configs import composed
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from deployment.score import Score
from litesort.errors import DeploymentError

ENTRY = {"ms_per_image": 11.742, "ratio": 0.5}


@pytest.mark.parametrize(
    ("f1", "seconds", "published"),
    [
        (0.7478, 61.2576, 0.9875),
        (0.7520, 61.2576, 0.9710),
        (0.7012, 58.1225, 1.1676),
        (0.6897, 59.3327, 1.2388),
        (0.7000, 60.0, 1.1950),
        (0.6465, 48.6440, 1.3080),
    ],
)
def test_score_equals_published_leaderboard_rows(f1, seconds, published):
    assert Score()(f1, seconds) == pytest.approx(published, abs=3e-4)


@pytest.mark.parametrize(
    ("name", "clock", "seconds"), [("boostcamp", "end_to_end", 61.258), ("relative", "model", 30.63)]
)
def test_each_score_config_uses_its_clock(name, clock, seconds):
    score = instantiate(composed("train", f"score={name}").score)
    assert (score.name, score.clock, score.reference, score.reference_size) == (name, clock, "resnet18d", 224)
    assert score.seconds(ENTRY) == pytest.approx(seconds, abs=1e-3)
    assert score(0.7478, 61.2576) == pytest.approx(0.9875, abs=3e-4)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1e4), st.floats(0.01, 1e4))
def test_higher_f1_and_less_time_never_raise_the_score(f1, other_f1, seconds, other_seconds):
    score = Score()
    assert score(max(f1, other_f1), min(seconds, other_seconds)) <= score(f1, seconds)


def test_steep_sigmoid_does_not_overflow():
    steep = Score(steepness=1e6)
    assert steep(1.0, 43.16) == pytest.approx(0.5)
    assert steep(0.0, 43.16) == pytest.approx(1.5)


def test_explanation_is_the_formula_with_its_values():
    text = Score().explain(0.74, 61.3)
    assert text == "score 1.0202 = 0.5*61.3/43.16 + sigmoid(20*(0.7-0.7400))"
    assert 0.5 * 61.3 / 43.16 + 1 / (1 + math.exp(-20 * (0.7 - 0.7400))) == pytest.approx(1.0202, abs=1e-4)


@pytest.mark.parametrize("f1", [-0.01, 1.01, 74.0, math.nan])
def test_f1_out_of_range_is_refused(f1):
    with pytest.raises(DeploymentError, match="between 0 and 1"):
        Score()(f1, 60.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_seconds_out_of_range_are_refused(seconds):
    with pytest.raises(DeploymentError, match="above 0"):
        Score()(0.7, seconds)


@pytest.mark.parametrize(
    "wrong", [{"time": "median"}, {"base_time": 0}, {"steepness": -1}, {"images": 0}, {"base_f1": 70}]
)
def test_parameter_out_of_range_is_named(wrong):
    with pytest.raises(DeploymentError, match=f"score.{next(iter(wrong))}={next(iter(wrong.values()))}"):
        Score(**wrong)


def test_compute_uses_the_record_of_its_clock_at_batch_one():
    def record(clock, batch, ratio):
        return {"clock": clock, "batch": batch, "entries": {"model": {"ratio": ratio, "ms_per_image": 10 * ratio}}}

    records = [record("model", 32, 0.9), record("end_to_end", 1, 0.5), record("model", 1, 0.25)]
    relative, boostcamp = Score(), Score(name="boostcamp", time="end_to_end")
    assert relative.compute(0.8, records)["score_seconds"] == pytest.approx(61.26 * 0.25)
    found = boostcamp.compute(0.8, records)
    assert found["score_seconds"] == pytest.approx(5 * 5.217)
    assert found["score"] == boostcamp(0.8, found["score_seconds"])
    assert found["score_name"] == "boostcamp"
    assert "val/score" not in found
    with_val = boostcamp.compute(0.8, records, val_f1=0.7)
    assert with_val == found | {"val/score": boostcamp(0.7, found["score_seconds"])}
    assert f"{found['score']:.4f}" in found["score_explained"]
    with pytest.raises(DeploymentError, match="model clock at batch 1"):
        relative.compute(0.8, records[:2])


def test_relative_score_needs_a_reference():
    with pytest.raises(DeploymentError, match="reference"):
        Score().seconds({"ms_per_image": 3.0, "ratio": None})
