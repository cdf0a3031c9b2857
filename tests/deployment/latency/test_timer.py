import gc
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import deployment.latency.timer as timer
from deployment.latency.timer import Runner, Settings, measure
from litesort.errors import DeploymentError


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a call moves it."""
    now = SimpleNamespace(ns=0)
    fake = SimpleNamespace(perf_counter_ns=lambda: now.ns, perf_counter=lambda: now.ns / 1e9)
    monkeypatch.setattr(timer, "time", fake)
    return now


def slow(clock, milliseconds):
    """A runner that takes `milliseconds(round)`."""

    def call(number):
        clock.ns += round(1e6 * milliseconds(number))

    return Runner(call)


def test_statistics_agree_with_numpy(clock):
    times = [float(time) for time in np.random.default_rng(0).integers(1, 100, size=23)]
    record = measure(
        {"a": slow(clock, lambda number: times[number])}, clock="model", batch=4,
        settings=Settings(seconds=0, min_rounds=23, max_rounds=23, warmup=0),
    )  # fmt: skip
    entry = record["entries"]["a"]
    assert record["rounds"] == 23
    assert entry["median_ms"] == pytest.approx(np.median(times))
    assert entry["p90_ms"] == pytest.approx(np.quantile(times, 0.9))
    assert entry["mean_ms"] == pytest.approx(np.mean(times))
    assert entry["min_ms"] == min(times)
    assert entry["ms_per_image"] == pytest.approx(np.mean(times) / 4)
    assert entry["images_per_second"] == pytest.approx(4000 / np.mean(times))
    assert entry["ratio"] is None


def test_a_machine_that_slows_down_moves_no_ratio(clock):
    def drift(number):
        return 1 + 9 * (number > 5)

    record = measure(
        {"model": slow(clock, lambda number: 3 * drift(number)), "reference": slow(clock, lambda n: 12 * drift(n))},
        clock="model", reference="reference", settings=Settings(seconds=0, min_rounds=12, warmup=3),
    )  # fmt: skip
    assert record["reference"] == "reference"
    assert record["entries"]["model"]["ratio"] == pytest.approx(0.25)
    assert record["entries"]["reference"]["ratio"] == 1


def test_all_take_turns_and_nobody_is_always_first():
    log = []
    runners = {name: Runner(lambda number, name=name: log.append((number, name))) for name in "abc"}
    measure(runners, clock="model", settings=Settings(seconds=0, min_rounds=6, warmup=1, warmup_calls=0))
    rounds = [log[start : start + 3] for start in range(0, len(log), 3)]
    assert [[number for number, _ in turn] for turn in rounds] == [[number] * 3 for number in range(-1, 6)]
    assert all({name for _, name in turn} == set("abc") for turn in rounds)
    assert sorted(turn[0][1] for turn in rounds[1:]) == list("aabbcc")


@pytest.mark.parametrize(
    ("each_ms", "settings", "rounds"),
    [
        (10, Settings(seconds=0.2, min_rounds=2, max_rounds=50, warmup=4), 10),  # the time is used up
        (10, Settings(seconds=9.0, min_rounds=2, max_rounds=5, warmup=0), 5),  # enough
        (500, Settings(seconds=0.1, min_rounds=3, max_rounds=50, warmup=1), 3),  # at least
    ],
)
def test_length_is_bounded_both_ways(clock, each_ms, settings, rounds):
    shares = []
    record = measure(
        {"a": slow(clock, lambda number: each_ms)}, clock="model", settings=settings, progress=shares.append
    )
    assert record["rounds"] == rounds == len(shares)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_warm_up_is_not_counted(clock):
    record = measure(
        {"a": slow(clock, lambda number: 1000 if number < 0 else 1)}, clock="model",
        settings=Settings(seconds=0, min_rounds=3, warmup=2),
    )  # fmt: skip
    assert record["entries"]["a"]["mean_ms"] == pytest.approx(1)


def test_every_turn_begins_as_if_it_were_alone(clock):
    """A cache that holds one network: who comes after another one is slow at first."""
    cached = []

    def network(name):
        def call(number):
            clock.ns += 1_000_000 if cached == [name] else 3_000_000
            cached[:] = [name]

        return Runner(call)

    def median(**settings):
        record = measure(
            {name: network(name) for name in "abc"}, clock="model", settings=Settings(0, min_rounds=5, **settings)
        )
        return record["warmup_calls"], record["entries"]["a"]["median_ms"]

    assert median() == (1, 1)
    assert median(warmup_calls=0) == (0, 3)


def test_surroundings_are_set_and_restored_even_after_an_error():
    seen = {}
    before, collecting = torch.get_num_threads(), gc.isenabled()

    def call(number):
        seen.update(inference=torch.is_inference_mode_enabled(), threads=torch.get_num_threads(), gc=gc.isenabled())
        if number == 1:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        measure({"a": Runner(call)}, clock="model", settings=Settings(seconds=0, min_rounds=3, threads=before + 1))
    assert seen == {"inference": True, "threads": before + 1, "gc": False}
    assert (torch.get_num_threads(), gc.isenabled()) == (before, collecting)


def test_the_record_is_plain_data_with_all_settings():
    record = measure(
        {"a": Runner(lambda number: None, details={"size": 96})}, clock="end_to_end", batch=2,
        settings=Settings(seconds=0, min_rounds=2, warmup=1, threads=1),
    )  # fmt: skip
    assert json.loads(json.dumps(record)) == record
    assert record["clock"] == "end_to_end"
    assert (record["batch"], record["threads"], record["warmup"], record["min_rounds"]) == (2, 1, 1, 2)
    assert record["machine"]
    assert record["entries"]["a"]["size"] == 96
    assert record["entries"]["a"]["device"] == "cpu"


@pytest.mark.parametrize(
    "wrong", [{"seconds": -1}, {"min_rounds": 0}, {"max_rounds": 3}, {"warmup": -1}, {"threads": 0}]
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
    assert torch.cuda.get_device_name() in record["machine"]
