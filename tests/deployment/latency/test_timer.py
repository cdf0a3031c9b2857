"""The timer of the latency benchmark, mostly on a simulated clock."""

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
    """A simulated clock. It advances only when a test adds to `ns`."""
    now = SimpleNamespace(ns=0)
    fake = SimpleNamespace(perf_counter_ns=lambda: now.ns, perf_counter=lambda: now.ns / 1e9)
    monkeypatch.setattr(timer, "time", fake)
    return now


def takes(clock, milliseconds, **more):
    """Return a runner whose calls take `milliseconds`, a number or a function that returns one."""

    def call(number):
        clock.ns += round(1e6 * (milliseconds() if callable(milliseconds) else milliseconds))

    return Runner(call, **more)


def rounds(number):
    """Return the settings of a measurement of exactly `number` rounds."""
    return Settings(seconds=0.0, tolerance=0, min_rounds=number)


def test_statistics_agree_with_numpy(clock):
    times = np.random.default_rng(0).uniform(60, 61, 10)  # within the 5 % in which untimed calls must agree
    drawn = iter(times)
    record = measure({"a": takes(clock, lambda: next(drawn))}, clock="model", batch=4, settings=rounds(6))
    timed = times[4:10]  # after four untimed calls, each turn is one timed call
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


def test_ratio_does_not_change_when_the_machine_slows_down(clock):
    def slowdown():
        return 1.0 if clock.ns < 2e9 else 5.0

    runners = {"model": takes(clock, lambda: 15 * slowdown()), "reference": takes(clock, lambda: 60 * slowdown())}
    record = measure(runners, clock="model", reference="reference", settings=rounds(20))
    entry = record["entries"]["model"]
    assert entry["ratio"] == pytest.approx(0.25)
    assert entry["p90_ms"] == pytest.approx(5 * entry["min_ms"])  # the times themselves changed
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


def test_timed_calls_start_after_the_caches_are_warm(clock):
    """After a turn of another network, the first nine calls are slower; the delay decreases with each call."""
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
    assert entries["small"]["calls"] == 5 * 30  # five turns of 30 ms


def test_untimed_calls_that_never_agree_end(clock):
    noisy = iter(np.tile([1.0, 2.0], 100_000))
    record = measure({"a": takes(clock, lambda: next(noisy))}, clock="model", settings=rounds(3))
    assert record["rounds"] == 3


def test_order_of_the_runners_rotates(clock):
    log = []

    def named(name):
        def call(number):
            log.append(name)
            clock.ns += 60_000_000

        return Runner(call)

    measure({name: named(name) for name in "abc"}, clock="model", settings=rounds(6))
    turns = log[12:]  # after four untimed calls of each, a turn is one timed call
    assert [turns[start : start + 3] for start in range(0, 18, 3)] == [list("abc"), list("bca"), list("cab")] * 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(seconds=0.6, tolerance=0, min_rounds=2, max_rounds=50), 10),  # ends when `seconds` are used
        (Settings(seconds=9.0, tolerance=0, min_rounds=2, max_rounds=5), 5),  # ends at `max_rounds`
        (Settings(seconds=0.1, tolerance=0, min_rounds=3, max_rounds=50), 3),  # continues to `min_rounds`
        (Settings(seconds=9.0, tolerance=0.02, min_rounds=4, max_rounds=50), 4),  # ends at `tolerance`
    ],
)
def test_number_of_rounds_follows_the_settings(clock, settings, expected):
    shares = []
    low, high = (59, 60) if settings.tolerance else (57, 63)
    times = np.random.default_rng(0)
    runner = takes(clock, lambda: times.uniform(low, high))
    record = measure({"a": runner}, clock="model", settings=settings, progress=shares.append)
    assert len(shares) == record["rounds"]
    assert record["rounds"] == pytest.approx(expected, abs=1 if settings.seconds == 0.6 else 0)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_each_runner_has_its_own_time_budget(clock):
    """The slow reference uses no time of a fast model, and ends when no ratio needs it."""
    random = np.random.default_rng(0)
    runners = {
        "noisy": takes(clock, lambda: random.uniform(1, 3)),
        "exact": takes(clock, 2.0),
        "reference": takes(clock, 60),
    }
    record = measure(
        runners, clock="model", reference="reference", settings=Settings(seconds=2, tolerance=0.001, min_rounds=5)
    )
    turns = {name: entry["turns"] for name, entry in record["entries"].items()}
    assert turns["exact"] == 5
    assert turns["noisy"] == turns["reference"] > 5


def test_known_reference_is_checked_instead_of_measured_again(clock):
    reference_ms, known = [60.0], {}

    def measure_once():
        runners = {"model": takes(clock, 3.0), "reference": takes(clock, lambda: reference_ms[0])}
        record = measure(runners, clock="model", reference="reference", reference_times=known, settings=rounds(9))
        return record["entries"]

    first = measure_once()
    assert first["reference"]["turns"] == len(known["reference"]) == 9
    second = measure_once()
    assert (second["model"]["turns"], second["reference"]["turns"]) == (9, 3)
    assert second["model"]["ratio"] == first["model"]["ratio"] == pytest.approx(0.05)
    reference_ms[0] = 120.0  # the machine is slower now
    third = measure_once()
    assert third["reference"]["turns"] == 9
    assert third["model"]["ratio"] == pytest.approx(0.025)
    assert known["reference"] == [120.0] * 9


def test_wide_interval_and_a_single_turn_are_unsteady(clock):
    random = np.random.default_rng(0)
    runners = {"model": takes(clock, lambda: random.uniform(60, 200)), "reference": takes(clock, 60)}
    entry = measure(runners, clock="model", reference="reference", settings=rounds(7))["entries"]["model"]
    assert entry["unsteady"]
    once = measure({"a": takes(clock, 60)}, clock="model", settings=rounds(1))["entries"]["a"]
    assert once["unsteady"]  # one turn has no spread


def test_95_percent_intervals_contain_the_true_value_in_about_95_percent_of_draws():
    random = np.random.default_rng(0)
    found = [median_of(random.normal(10, 1, 25)) for _ in range(300)]
    assert 0.88 < np.mean([low <= 10 <= high for _, low, high in found]) < 0.99
    pairs = [(random.normal(10, 1, 25), random.normal(40, 1, 18)) for _ in range(300)]
    ratios = [ratio_of(*pair, paired=False) for pair in pairs]
    assert 0.88 < np.mean([low <= 0.25 <= high for _, low, high in ratios]) < 0.99


def test_threads_and_garbage_collection_are_restored_after_an_error():
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


def test_record_is_plain_data_with_settings_and_machine():
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
def test_setting_out_of_range_is_named(wrong):
    with pytest.raises(DeploymentError, match=f"latency.{next(iter(wrong))}={next(iter(wrong.values()))}"):
        Settings(**wrong)


def test_unknown_reference_and_missing_runners_are_errors():
    with pytest.raises(DeploymentError, match="reference=b is not one of the models: choose one of a"):
        measure({"a": Runner(lambda number: None)}, clock="model", reference="b")
    with pytest.raises(DeploymentError, match="no model is given"):
        measure({}, clock="model")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("clock", ["model", "end_to_end"])
def test_time_on_a_gpu_includes_the_computation(clock):
    small, large = (torch.rand(side, side, device="cuda") for side in (64, 4096))
    runners = {
        "small": Runner(lambda number: small @ small, "cuda"),
        "large": Runner(lambda number: large @ large, "cuda"),
    }
    record = measure(runners, clock=clock, reference="small", settings=Settings(seconds=0, min_rounds=9))
    assert record["entries"]["large"]["ratio"] > 5  # about 1 if only the launches of the kernels were timed
    assert torch.cuda.get_device_name() in record["machine"]["gpu"]
