"""Time runners in turn, each after a warm-up, and report medians with intervals."""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from litesort.errors import DeploymentError
from litesort.system import describe_machine

# A turn begins with a warm-up of 10 untimed calls or 25 ms, then further calls until two in a row agree. A runner whose
# call takes longer than 25 ms needs no warm-up.
WARMUP_CALLS, WARMUP_MS = 10, 25.0
AGREEMENT = 0.05  # largest relative difference of two calls that agree
WARMUP_LIMIT_MS = 200.0  # the warm-up ends after this time, even if no two calls agree
TURN_MS = 30.0  # time of the timed calls in a turn; a slow runner has one call per turn
CHECK_ROUNDS = 3  # rounds that check a reference whose time is known
KNOWN_WITHIN = 0.05  # largest relative difference from the known time; beyond it, the reference is measured in full
STEADY = 0.05  # largest relative error of a steady measurement
RESAMPLES = 400  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Runner:
    """A function to time.

    Attributes:
        call: Processes one batch. It gets the number of the call, so that all runners can get the same input.
        device: Torch device to synchronise with; "cpu" for calls that return when they are done.
        details: Plain values for its entry.
        same_runtime: Name of the runner that `ratio_same_runtime` is relative to.
    """

    call: Callable[[int], Any]
    device: str = "cpu"
    details: Mapping[str, Any] = field(default_factory=dict)
    same_runtime: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Length of a measurement, and threads.

    Attributes:
        seconds: Time to spend on each runner, untimed calls included.
        tolerance: A runner finishes earlier if the relative error of its ratio (without a reference: of its time) is
            at most this; see `Estimate.error`.
        min_rounds: Smallest number of rounds, even if they take longer than `seconds`.
        max_rounds: Largest number of rounds.
        threads: Threads of torch on the CPU; None keeps the current number. With several threads, any other process
            on one of the cores delays every operation. Other runtimes have their own setting.
    """

    seconds: float = 1.0
    tolerance: float = 0.02
    min_rounds: int = 7
    max_rounds: int = 200
    threads: int | None = 1

    def __post_init__(self) -> None:
        for key in ("seconds", "tolerance"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise DeploymentError(f"latency.{key}={value} is invalid: expected a finite number, 0 or more")
        for key, low in {"min_rounds": 1, "max_rounds": self.min_rounds, "threads": 1}.items():
            value = getattr(self, key)
            if value is not None and value < low:
                raise DeploymentError(f"latency.{key}={value} is invalid: expected at least {low}")


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Distance of the farther end of the interval, as a share of the value."""
        return max(self.high - self.value, self.value - self.low) / self.value


def median_of(times: Sequence[float]) -> Estimate:
    """Return the median of turns with a bootstrap interval."""
    return _estimate(np.median(times), _resampled(times))


def ratio_of(times: Sequence[float], base: Sequence[float], paired: bool) -> Estimate:
    """Return the time of a runner divided by that of a reference, with a bootstrap interval.

    Args:
        times: Medians of turns, ms.
        base: Those of the reference.
        paired: Whether both are from the same rounds. Then the result is the median of the ratios of the rounds, so
            that a temporary slowdown of the machine does not change it. Otherwise it is the ratio of the medians.
    """
    if paired:
        return median_of(np.asarray(times, float) / np.asarray(base, float))
    draws = _resampled(times) / _resampled(base)
    return _estimate(np.median(times) / np.median(base), draws)


def _resampled(times: Sequence[float]) -> np.ndarray:
    """Return medians (RESAMPLES,) of times drawn with replacement."""
    values, random = np.asarray(times, float), np.random.default_rng(len(times))
    medians: np.ndarray = np.median(values[random.integers(0, len(values), (RESAMPLES, len(values)))], axis=1)
    return medians


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def measure(
    runners: Mapping[str, Runner],
    *,
    clock: str,
    batch: int = 1,
    reference: str | None = None,
    reference_times: dict[str, list[float]] | None = None,
    same_input: bool = False,
    settings: Settings | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Time runners round by round, one turn each in rotating order, in inference mode, garbage collection off.

    A turn begins with untimed calls, because the other runners have filled the caches of the processor: 10 calls or
    25 ms, then further calls until two in a row agree. Then calls are timed for about 30 ms, and their median is the
    time of the turn.

    Args:
        runners: Name -> runner.
        clock: "model" or "end_to_end"; on a GPU, "model" is timed by CUDA events.
        batch: Images per call.
        reference: Name of the runner that `ratio` is relative to.
        reference_times: Known times of the turns of references, ms, by name. A reference that is missing is measured
            and added. A known reference takes part in three rounds; if its median there differs from the known one by
            more than 5 %, it is measured again.
        same_input: Whether runners process the same inputs. Then all have the same number of calls per turn.
        settings: Threads and length.
        progress: Called with the completed share, in [0, 1], after each round.

    Returns:
        Plain data: the settings, the machine, `rounds`, and `entries`: name -> `median_ms` with `low_ms` and `high_ms`
        (95 % bootstrap interval over rounds), `p90_ms`, `mean_ms`, `min_ms` of a call, `ms_per_image` (mean),
        `images_per_second`, `turns`, `calls`, `unsteady`, and `ratio`, `ratio_same_runtime` with `_low`
        and `_high`: time divided by the reference's (None without one).

    Raises:
        DeploymentError: There are no runners, or a reference is unknown.
    """
    settings = settings or Settings()
    _check(runners, reference)
    surroundings = _surroundings(runners)
    with _threads(settings.threads), _no_garbage_collection(), torch.inference_mode():
        turns = _Turns(runners, clock, reference, reference_times or {}, settings)
        turns.run(same_input, progress)
        threads = torch.get_num_threads()
    if reference_times is not None:
        reference_times |= {name: turns.times(name) for name in turns.references - turns.confirmed.keys()}
    entries = {
        name: {**runner.details, "device": runner.device, **turns.describe(name, batch)}
        for name, runner in runners.items()
    }
    record = {"clock": clock, "batch": batch, "reference": reference} | asdict(settings) | surroundings
    return record | {"threads": threads, "rounds": turns.rounds, "entries": entries}


def _check(runners: Mapping[str, Runner], reference: str | None) -> None:
    if not runners:
        raise DeploymentError("no model is given: give at least one")
    for name in (reference, *(runner.same_runtime for runner in runners.values())):
        if name is not None and name not in runners:
            raise DeploymentError(f"reference={name} is not one of the models: choose one of {', '.join(runners)}")


def _surroundings(runners: Mapping[str, Runner]) -> dict[str, Any]:
    devices = {runner.device for runner in runners.values() if runner.device.startswith("cuda")}
    gpus = sorted({torch.cuda.get_device_name(device) for device in devices})
    return {
        "machine": describe_machine() | ({"gpu": ", ".join(gpus)} if gpus else {}),
        "torch": str(torch.__version__),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


class _Turns:
    """Turns of all runners, and their statistics."""

    def __init__(
        self,
        runners: Mapping[str, Runner],
        clock: str,
        reference: str | None,
        known_times: Mapping[str, list[float]],
        settings: Settings,
    ) -> None:
        self.runners, self.reference, self.known_times, self.settings = runners, reference, known_times, settings
        self.confirmed: dict[str, list[float]] = {}  # known times of references that the check confirmed
        self.references = {base for name in runners for base in self.bases(name).values()}
        self.by_events = clock == "model"
        self.calls: dict[str, list[float]] = {name: [] for name in runners}  # ms of each timed call
        self.turns: dict[str, dict[int, float]] = {name: {} for name in runners}  # round -> median ms
        self.spent = dict.fromkeys(runners, 0.0)  # seconds
        self.one_call: dict[str, float] = {}  # ms
        self.timed_calls: dict[str, int] = {}  # per turn
        self.rounds = 0

    def bases(self, name: str) -> dict[str, str]:
        """Return the references of a runner: key of the ratio -> name."""
        pairs = {"ratio": self.reference, "ratio_same_runtime": self.runners[name].same_runtime}
        return {key: base for key, base in pairs.items() if base is not None}

    def run(self, same_input: bool, progress: Callable[[float], None] | None) -> None:
        settings, names = self.settings, list(self.runners)
        for _ in range(2):  # the first calls compile and allocate
            self.one_call = {name: self.warm_up(name, 0) for name in names}
        slowest = max(self.one_call.values())
        per_call = dict.fromkeys(names, slowest) if same_input else self.one_call
        self.timed_calls = {name: max(1, round(TURN_MS / per_call[name])) for name in names}
        active, share = set(names), 0.0
        while active and self.rounds < settings.max_rounds:
            turn = self.rounds % len(names)
            for name in names[turn:] + names[:turn]:
                if name in active:
                    self.take_turn(name)
            self.rounds += 1
            active = self.unfinished()
            share = max(share, self.share(active))
            if progress is not None:
                progress(share)

    def take_turn(self, name: str) -> None:
        start, calls = time.perf_counter(), self.timed_calls[name]
        first = self.rounds * calls
        if self.one_call[name] < WARMUP_MS:
            self.warm_up(name, first)
        elif self.settings.threads != 1:  # threads of another runtime may still be in a busy wait
            self.time_call(name, first)
        times = [self.time_call(name, first + number) for number in range(calls)]
        self.calls[name] += times
        self.turns[name][self.rounds] = float(np.median(times))
        self.spent[name] += time.perf_counter() - start

    def warm_up(self, name: str, number: int) -> float:
        """Call a runner until two calls in a row agree, or for a limited time; returns the last time in ms."""
        spent, before = 0.0, math.inf
        for count in range(1, 1000):
            now = self.time_call(name, number)
            spent += now
            enough = count >= WARMUP_CALLS or spent >= WARMUP_MS
            if (enough and abs(now - before) <= AGREEMENT * min(now, before)) or spent >= WARMUP_LIMIT_MS:
                break
            before = now
        return max(now, 1e-6)

    def time_call(self, name: str, number: int) -> float:
        """Return the time of one call in ms."""
        runner = self.runners[name]
        if not runner.device.startswith("cuda"):
            start = time.perf_counter_ns()
            runner.call(number)
            return (time.perf_counter_ns() - start) / 1e6
        with torch.cuda.device(runner.device):
            torch.cuda.synchronize()
            if self.by_events:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                runner.call(number)
                end.record()
                end.synchronize()
                return begin.elapsed_time(end)
            start = time.perf_counter_ns()
            runner.call(number)
            torch.cuda.synchronize()
            return (time.perf_counter_ns() - start) / 1e6

    def times(self, name: str) -> list[float]:
        return list(self.turns[name].values())

    def unfinished(self) -> set[str]:
        """Names of the runners that take part in the next round."""
        if self.rounds == CHECK_ROUNDS:
            self.confirmed = {name: times for name, times in self.known_times.items() if self.is_confirmed(name, times)}
        if self.rounds < self.settings.min_rounds:
            return self.runners.keys() - self.confirmed.keys()
        left = {name for name in self.runners if self.spent[name] < self.settings.seconds}
        measured = {
            name
            for name in left - self.references
            if self.needs(name) <= left and self.error(name) > self.settings.tolerance
        }
        return measured.union(*map(self.needs, measured))

    def is_confirmed(self, name: str, times: Sequence[float]) -> bool:
        if name not in self.runners:
            return False
        return abs(float(np.median(self.times(name))) / float(np.median(times)) - 1) <= KNOWN_WITHIN

    def needs(self, name: str) -> set[str]:
        """Return the references that must be timed in the same rounds as a runner, because no time is confirmed."""
        return set(self.bases(name).values()) - self.confirmed.keys()

    def error(self, name: str) -> float:
        """Return the largest relative error of a runner's ratios; without a reference, that of its time."""
        ratios = [self.ratio(name, base) for base in self.bases(name).values() if base != name]
        return max(estimate.error for estimate in ratios or [median_of(self.times(name))])

    def ratio(self, name: str, base: str) -> Estimate:
        if base in self.confirmed and name != base:
            return ratio_of(self.times(name), self.confirmed[base], paired=False)
        common = sorted(self.turns[name].keys() & self.turns[base].keys())
        times, reference = ([self.turns[one][number] for number in common] for one in (name, base))
        return ratio_of(times, reference, paired=True)

    def share(self, active: set[str]) -> float:
        settings = self.settings

        def done(name: str) -> float:
            spent = self.spent[name] / settings.seconds if settings.seconds > 0 else 1.0
            return max(self.rounds / settings.max_rounds, min(spent, self.rounds / settings.min_rounds))

        return min([1.0, *(done(name) for name in active)]) if active else 1.0

    def describe(self, name: str, batch: int) -> dict[str, Any]:
        times, turns = np.asarray(self.calls[name]), self.times(name)
        median, mean = median_of(turns), float(times.mean())
        ratios: dict[str, float | None] = {}
        for key in ("ratio", "ratio_same_runtime"):
            base = self.bases(name).get(key)
            values = (None,) * 3 if base is None else self.ratio(name, base)
            ratios |= dict(zip((key, f"{key}_low", f"{key}_high"), values, strict=True))
        return {
            "median_ms": median.value,
            "low_ms": median.low,
            "high_ms": median.high,
            "p90_ms": float(np.quantile(times, 0.9)),
            "mean_ms": mean,
            "min_ms": float(times.min()),
            "ms_per_image": mean / batch,
            "images_per_second": 1000 * batch / mean,
            **ratios,
            "unsteady": len(turns) < CHECK_ROUNDS or self.error(name) > STEADY,
            "turns": len(turns),
            "calls": len(times),
        }


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
