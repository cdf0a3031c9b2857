"""Time callables in turn, so that whatever slows the machine down meanwhile slows all of them."""

import gc
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from deployment import DeploymentError


@dataclass(frozen=True, slots=True)
class Runner:
    """Something to time.

    Attributes:
        call: Handles one batch; gets the round's number, so that all can be given the same work (below 0: warm-up).
        device: Torch device that has to be waited for; "cpu" for whatever is done when it returns.
        details: Plain values to note in its entry.
    """

    call: Callable[[int], Any]
    device: str = "cpu"
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """How long to measure, and on what.

    Attributes:
        seconds: Time to spend on one measurement; rounds are added until it is used up.
        min_rounds: Rounds that are run however long they take.
        max_rounds: Rounds that are enough.
        warmup: Rounds whose time is thrown away.
        lead_in: Untimed calls before each timed one. What runs alone finds its weights in the processor's caches; after
            the others' turns it would not, which costs a small network half of its time again.
        threads: Threads of torch on the CPU; None leaves them as they are. With more than one, whatever else runs on a
            core stalls every operation at its end, many times over. Other runtimes bring their own setting.
    """

    seconds: float = 3.0
    min_rounds: int = 7
    max_rounds: int = 200
    warmup: int = 2
    lead_in: int = 1
    threads: int | None = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise DeploymentError(f"latency.seconds={self.seconds} is out of range: give a finite number, 0 or more")
        least = {"min_rounds": 1, "max_rounds": self.min_rounds, "warmup": 0, "lead_in": 0, "threads": 1}
        for key, low in least.items():
            value = getattr(self, key)
            if value is not None and value < low:
                raise DeploymentError(f"latency.{key}={value} is out of range: give at least {low}")


def measure(
    runners: Mapping[str, Runner],
    *,
    clock: str,
    batch: int = 1,
    reference: str | None = None,
    settings: Settings | None = None,
    progress: Callable[[float], None] | None = None,
    before: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Time runners round by round, one timed call each in rotating order, in inference mode, garbage collection off.

    Args:
        runners: Name -> what to time.
        clock: "model" or "end_to_end"; it is noted, and where a GPU is used "model" is timed by its own events.
        batch: Photos a call handles.
        reference: Name that ratios are taken to.
        settings: Threads, warm-up and length.
        progress: Called with the share done, in [0, 1], after each round.
        before: Called with the round's number before each round, untimed.

    Returns:
        Plain data: the settings, the machine, and `entries`: name -> `median_ms`, `p90_ms`, `mean_ms`, `min_ms` of a
        call, `ms_per_photo` (mean), `photos_per_second`, and `ratio`: the median over rounds of its time by the
        reference's in the same round (None without a reference).

    Raises:
        DeploymentError: Nothing to measure, or an unknown reference.
    """
    _check(runners, reference)
    settings = settings or Settings()
    with _threads(settings.threads), _no_garbage_collection(), torch.inference_mode():
        times = _run(runners, clock, settings, progress, before)
        record = {"clock": clock, "batch": batch, "reference": reference} | asdict(settings) | _surroundings(runners)
    base = None if reference is None else times[reference]
    entries = {
        name: {**runner.details, "device": runner.device, **_describe(times[name], batch, base)}
        for name, runner in runners.items()
    }
    return record | {"rounds": len(next(iter(times.values()))), "entries": entries}


def _check(runners: Mapping[str, Runner], reference: str | None) -> None:
    if not runners:
        raise DeploymentError("there is nothing to measure: give at least one model")
    if reference is not None and reference not in runners:
        raise DeploymentError(f"reference={reference} is not measured: choose one of {', '.join(runners)}")


def _surroundings(runners: Mapping[str, Runner]) -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "machine": _machine(runners),
        "torch": str(torch.__version__),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def _machine(runners: Mapping[str, Runner]) -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    devices = {runner.device for runner in runners.values() if runner.device.startswith("cuda")}
    return ", ".join([name, *sorted({torch.cuda.get_device_name(device) for device in devices})])


def _run(
    runners: Mapping[str, Runner],
    clock: str,
    settings: Settings,
    progress: Callable[[float], None] | None,
    before: Callable[[int], None] | None,
) -> dict[str, list[float]]:
    names = list(runners)
    times: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for number in range(-settings.warmup, settings.max_rounds):  # below 0: warm-up, timed for nothing
        if number == 0:
            start = time.perf_counter()
        if before is not None:
            before(number)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            for _ in range(settings.lead_in):
                runners[name].call(number)
            elapsed = _clocked(runners[name], number, by_events=clock == "model")
            if number >= 0:
                times[name].append(elapsed)
        share = _share(number + 1, time.perf_counter() - start, settings)
        if progress is not None and number >= 0:
            progress(share)
        if number >= 0 and share >= 1:
            break
    return times


def _share(rounds: int, seconds: float, settings: Settings) -> float:
    spent = seconds / settings.seconds if settings.seconds > 0 else 1.0
    return min(1.0, max(rounds / settings.max_rounds, min(spent, rounds / settings.min_rounds)))


def _clocked(runner: Runner, number: int, by_events: bool) -> float:
    if not runner.device.startswith("cuda"):
        start = time.perf_counter_ns()
        runner.call(number)
        return (time.perf_counter_ns() - start) / 1e6
    with torch.cuda.device(runner.device):
        torch.cuda.synchronize()
        if by_events:
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


def _describe(times: list[float], batch: int, reference: list[float] | None) -> dict[str, Any]:
    mean = statistics.fmean(times)
    return {
        "median_ms": statistics.median(times),
        "p90_ms": float(torch.tensor(times, dtype=torch.float64).quantile(0.9)),
        "mean_ms": mean,
        "min_ms": min(times),
        "ms_per_photo": mean / batch,
        "photos_per_second": 1000 * batch / mean,
        "ratio": None if reference is None else statistics.median(a / b for a, b in zip(times, reference, strict=True)),
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
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
