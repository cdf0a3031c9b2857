import gc
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import deployment.latency.timer as timer
from deployment.latency.timer import Runner, Settings, measure, median_of, ratio_of
from litesort.errors import DeploymentError


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a call moves it."""
    now = SimpleNamespace(ns=0)
    fake = SimpleNamespace(perf_counter_ns=lambda: now.ns, perf_counter=lambda: now.ns / 1e9)
    monkeypatch.setattr(timer, "time", fake)
    return now


def takes(clock, milliseconds, **more):
    """A runner that takes `milliseconds()`, or a constant."""

    def call(number):
        clock.ns += round(1e6 * (milliseconds() if callable(milliseconds) else milliseconds))

    return Runner(call, **more)


def rounds(number, seconds=0.0, **more):
    return Settings(seconds=seconds, tolerance=0, min_rounds=number, **more)


def test_statistics_agree_with_numpy(clock):
    times = np.random.default_rng(0).uniform(60, 61, 10)  # near enough for the untimed calls to agree
    drawn = iter(times)
    record = measure({"a": takes(clock, lambda: next(drawn))}, clock="model", batch=4, settings=rounds(6))
    timed = times[4:10]  # four calls to begin with; then a turn is one call
    entry = record["entries"]["a"]
    assert (record["rounds"], entry["turns"], entry["calls"]) == (6, 6, 6)
    assert entry["median_ms"] == pytest.approx(np.median(timed))
    assert entry["p90_ms"] == pytest.approx(np.quantile(timed, 0.9))
    assert entry["mean_ms"] == pytest.approx(np.mean(timed))
    assert entry["min_ms"] == pytest.approx(min(timed))
    assert entry["ms_per_image"] == pytest.approx(np.mean(timed) / 4)
    assert entry["images_per_second"] == pytest.approx(4000 / np.mean(timed))
    assert entry["low_ms"] <= entry["median_ms"] <= entry["high_ms"]
    assert entry["ratio"] is entry["ratio_same_runtime_low"] is None


def test_a_machine_that_slows_down_moves_no_ratio(clock):
    def slower():
        return 1.0 if clock.ns < 2e9 else 5.0

    runners = {"model": takes(clock, lambda: 15 * slower()), "reference": takes(clock, lambda: 60 * slower())}
    record = measure(runners, clock="model", reference="reference", settings=rounds(20))
    entry = record["entries"]["model"]
    assert entry["ratio"] == pytest.approx(0.25)
    assert entry["p90_ms"] == pytest.approx(5 * entry["min_ms"])  # the time did change
    assert record["entries"]["reference"]["ratio"] == 1


def test_two_references_give_two_ratios(clock):
    runners = {
        "file": takes(clock, 2, same_runtime="exported"),
        "eager": takes(clock, 60),
        "exported": takes(clock, 40),
    }
    entry = measure(runners, clock="model", reference="eager", settings=rounds(3))["entries"]["file"]
    assert (entry["ratio"], entry["ratio_same_runtime"]) == (pytest.approx(1 / 30), pytest.approx(0.05))
    assert entry["ratio_low"] <= entry["ratio"] <= entry["ratio_high"]
    assert entry["unsteady"] is False


def test_a_turn_begins_as_if_the_runner_were_alone(clock):
    """Caches hold one network: after a turn of another, nine calls are slow, each a little less."""
    last = {"name": None, "calls": 0}

    def network(name, ms):
        def call(number):
            last["calls"] = last["calls"] + 1 if last["name"] == name else 1
            last["name"] = name
            clock.ns += round(1e6 * ms * (1 + max(0, 10 - last["calls"]) / 4))

        return Runner(call)

    runners = {"small": network("small", 1.0), "large": network("large", 40.0)}
    entries = measure(runners, clock="model", reference="large", settings=rounds(5))["entries"]
    assert entries["small"]["median_ms"] == entries["small"]["p90_ms"] == pytest.approx(1)
    assert entries["small"]["calls"] == 5 * 30  # a turn of 30 ms


def test_calls_that_never_agree_end(clock):
    noisy = iter(np.tile([1.0, 2.0], 100_000))
    record = measure({"a": takes(clock, lambda: next(noisy))}, clock="model", settings=rounds(3))
    assert record["rounds"] == 3


def test_all_take_turns_and_none_is_always_first(clock):
    log = []

    def named(name):
        def call(number):
            log.append(name)
            clock.ns += 60_000_000

        return Runner(call)

    measure({name: named(name) for name in "abc"}, clock="model", settings=rounds(6))
    turns = log[12:]  # four calls of each to begin with; then a turn is one call
    assert [turns[start : start + 3] for start in range(0, 18, 3)] == [list("abc"), list("bca"), list("cab")] * 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(seconds=0.6, tolerance=0, min_rounds=2, max_rounds=50), 10),  # the time is used up
        (Settings(seconds=9.0, tolerance=0, min_rounds=2, max_rounds=5), 5),  # enough
        (Settings(seconds=0.1, tolerance=0, min_rounds=3, max_rounds=50), 3),  # at least
        (Settings(seconds=9.0, tolerance=0.02, min_rounds=4, max_rounds=50), 4),  # known exactly enough
    ],
)
def test_length_is_bounded(clock, settings, expected):
    shares, jitter = [], iter(np.random.default_rng(0).uniform(59, 60, 1000))
    wide = iter(np.random.default_rng(1).uniform(57, 63, 1000))
    source = jitter if settings.tolerance else wide
    record = measure(
        {"a": takes(clock, lambda: next(source))}, clock="model", settings=settings, progress=shares.append
    )
    assert len(shares) == record["rounds"]
    assert record["rounds"] == pytest.approx(expected, abs=1 if settings.seconds == 0.6 else 0)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_each_has_a_budget_of_its_own(clock):
    """The slow reference takes no time from a fast model, and stops when nobody needs it."""
    wide = np.random.default_rng(0)
    runners = {
        "noisy": takes(clock, lambda: wide.uniform(1, 3)),
        "exact": takes(clock, 2.0),
        "reference": takes(clock, 60),
    }
    record = measure(
        runners, clock="model", reference="reference", settings=Settings(seconds=2, tolerance=0.001, min_rounds=5)
    )
    turns = {name: entry["turns"] for name, entry in record["entries"].items()}
    assert turns["exact"] == 5
    assert turns["noisy"] == turns["reference"] > 5


def test_a_known_reference_is_checked_and_not_measured_again(clock):
    speed, memory = [60.0], {}

    def once():
        runners = {"model": takes(clock, 3.0), "reference": takes(clock, lambda: speed[0])}
        return measure(runners, clock="model", reference="reference", memory=memory, settings=rounds(9))["entries"]

    first = once()
    assert first["reference"]["turns"] == len(memory["reference"]) == 9
    second = once()
    assert (second["model"]["turns"], second["reference"]["turns"]) == (9, 3)
    assert second["model"]["ratio"] == first["model"]["ratio"] == pytest.approx(0.05)
    speed[0] = 120.0  # the machine has changed
    third = once()
    assert third["reference"]["turns"] == 9
    assert third["model"]["ratio"] == pytest.approx(0.025)
    assert memory["reference"] == [120.0] * 9


def test_what_did_not_settle_is_called_unsteady(clock):
    wide = np.random.default_rng(0)
    runners = {"model": takes(clock, lambda: wide.uniform(60, 200)), "reference": takes(clock, 60)}
    entry = measure(runners, clock="model", reference="reference", settings=rounds(7))["entries"]["model"]
    assert entry["unsteady"]
    once = measure({"a": takes(clock, 60)}, clock="model", settings=rounds(1))["entries"]["a"]
    assert once["unsteady"]  # one turn says nothing of the spread


def test_intervals_hold_the_true_median_19_times_in_20():
    random = np.random.default_rng(0)
    found = [median_of(random.normal(10, 1, 25)) for _ in range(300)]
    assert 0.88 < np.mean([low <= 10 <= high for _, low, high in found]) < 0.99
    pairs = [(random.normal(10, 1, 25), random.normal(40, 1, 18)) for _ in range(300)]
    ratios = [ratio_of(*pair, paired=False) for pair in pairs]
    assert 0.88 < np.mean([low <= 0.25 <= high for _, low, high in ratios]) < 0.99


def test_surroundings_are_set_and_restored_even_after_an_error():
    seen = {}
    before, collecting = torch.get_num_threads(), gc.isenabled()

    def call(number):
        seen.update(inference=torch.is_inference_mode_enabled(), threads=torch.get_num_threads(), gc=gc.isenabled())
        if number > 1:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        measure({"a": Runner(call)}, clock="model", settings=Settings(threads=before + 1))
    assert seen == {"inference": True, "threads": before + 1, "gc": False}
    assert (torch.get_num_threads(), gc.isenabled()) == (before, collecting)


def test_the_record_is_plain_data_with_all_settings():
    record = measure(
        {"a": Runner(lambda number: None, details={"size": 96})}, clock="end_to_end", batch=2,
        settings=Settings(seconds=0, min_rounds=2, threads=1),
    )  # fmt: skip
    assert json.loads(json.dumps(record)) == record
    assert record["clock"] == "end_to_end"
    assert (record["batch"], record["threads"], record["tolerance"], record["min_rounds"]) == (2, 1, 0.02, 2)
    assert {"cpu", "cores", "instruction_sets", "governor", "load"} <= record["machine"].keys()
    assert record["entries"]["a"]["size"] == 96
    assert record["entries"]["a"]["device"] == "cpu"


@pytest.mark.parametrize(
    "wrong", [{"seconds": -1}, {"tolerance": float("nan")}, {"min_rounds": 0}, {"max_rounds": 3}, {"threads": 0}]
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(DeploymentError, match=f"latency.{next(iter(wrong))}={next(iter(wrong.values()))}"):
        Settings(**wrong)


def test_an_unknown_reference_and_nothing_to_measure_are_errors():
    with pytest.raises(DeploymentError, match="reference=b is not one of the models: choose one of a"):
        measure({"a": Runner(lambda number: None)}, clock="model", reference="b")
    with pytest.raises(DeploymentError, match="no model is given"):
        measure({}, clock="model")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("clock", ["model", "end_to_end"])
def test_a_gpu_is_waited_for(clock):
    matrix = torch.rand(4096, 4096, device="cuda")
    runners = {
        "once": Runner(lambda number: matrix @ matrix, "cuda"),
        "often": Runner(lambda number: [matrix @ matrix for _ in range(20)], "cuda"),
    }
    record = measure(runners, clock=clock, reference="once", settings=Settings(seconds=0, min_rounds=9))
    assert record["entries"]["often"]["ratio"] > 5  # launching alone would take almost no time
    assert torch.cuda.get_device_name() in record["machine"]["gpu"]
