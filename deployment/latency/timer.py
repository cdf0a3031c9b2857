"""Time models and pipelines: settings, clocks, and a description of the machine."""

import gc
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deployment.complexity import evaluating
from deployment.formats import Predictor
from litesort.errors import DeploymentError


@dataclass(frozen=True, slots=True)
class Runner:
    """Something to time.

    Attributes:
        call: Processes one batch. It gets the number of the round, so that all runners can get the same input; numbers
            below 0 are warm-up.
        device: Torch device to synchronise with; "cpu" for calls that return when they are done.
        details: Plain values for its entry.
    """

    call: Callable[[int], Any]
    device: str = "cpu"
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """Length of a measurement, and threads.

    Attributes:
        seconds: Time to spend on one measurement; rounds are added until it is used up.
        min_rounds: Smallest number of rounds, whatever their time.
        max_rounds: Largest number of rounds.
        warmup: Untimed rounds before the first one.
        warmup_calls: Untimed calls before each timed one. They load the weights into the caches of the processor,
            which the other runners have replaced. Without them a small network takes 1.5 times as long.
        threads: Threads of torch on the CPU; None keeps the current number. With several threads, any other process
            on one of the cores delays every operation. Other runtimes have their own setting.
    """

    seconds: float = 3.0
    min_rounds: int = 7
    max_rounds: int = 200
    warmup: int = 2
    warmup_calls: int = 1
    threads: int | None = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise DeploymentError(f"latency.seconds={self.seconds} is out of range: give a finite number, 0 or more")
        least = {"min_rounds": 1, "max_rounds": self.min_rounds, "warmup": 0, "warmup_calls": 0, "threads": 1}
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
        runners: Name -> runner.
        clock: "model" or "end_to_end"; on a GPU, "model" is timed by CUDA events.
        batch: Images a call.
        reference: Name of the runner that ratios are relative to.
        settings: Threads, warm-up and length.
        progress: Called with the completed share, in [0, 1], after each round.
        before: Called with the number of the round before each round, untimed.

    Returns:
        Plain data: the settings, the machine, and `entries`: name -> `median_ms`, `p90_ms`, `mean_ms`, `min_ms` of a
        call, `ms_per_image` (mean), `images_per_second`, and `ratio`: the median over rounds of its time divided by the
        reference's in the same round (None without a reference).

    Raises:
        DeploymentError: There are no runners, or the reference is unknown.
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
        raise DeploymentError("no model is given: give at least one")
    if reference is not None and reference not in runners:
        raise DeploymentError(f"reference={reference} is not one of the models: choose one of {', '.join(runners)}")


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
    for number in range(-settings.warmup, settings.max_rounds):  # below 0: warm-up
        if number == 0:
            start = time.perf_counter()
        if before is not None:
            before(number)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            for _ in range(settings.warmup_calls):
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
        "ms_per_image": mean / batch,
        "images_per_second": 1000 * batch / mean,
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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of any runtime for the model clock; its inputs are made before the clock starts.

    Attributes:
        predict: Takes the result of `inputs`, returns probabilities (B, C).
        inputs: Takes a batch size B, returns preprocessed images in the form of the runtime.
        device: Torch device to synchronise with; "cpu" for runtimes that return when they are done.
        details: Plain values for the entry (size, precision, runtime and its options).
        module: Network to keep in evaluation mode during the measurement.
    """

    predict: Callable[[Any], Any]
    inputs: Callable[[int], Any]
    device: str = "cpu"
    details: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A reader and a model of any runtime for the end-to-end clock.

    Attributes:
        prepare: Takes a file, returns (S, S, 3) uint8.
        predict: Takes (B, S, S, 3) uint8, returns probabilities (B, C), a tensor or an array.
        device: Torch device to synchronise with.
        details: Plain values for the entry.
        module: Network to keep in evaluation mode during the measurement.
    """

    prepare: Callable[[Path], np.ndarray]
    predict: Callable[[np.ndarray], Any]
    device: str = "cpu"
    details: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None


def torch_candidate(net: nn.Module, size: int) -> Candidate:
    """Make the candidate of an eager network on its device: (B, 3, size, size) float in [0, 1] -> probabilities."""
    device, dtype, layout = _home(net)

    def inputs(batch: int) -> torch.Tensor:
        # A separate generator, because a measurement must not change the random state of a training.
        random = torch.Generator().manual_seed(0)
        return torch.rand(batch, 3, size, size, generator=random).to(device, dtype, memory_format=layout)

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        return net(pixels).softmax(dim=1)

    return Candidate(predict, inputs, str(device), _eager(dtype, layout) | {"size": size}, net)


def torch_pipeline(net: nn.Module, prepare: Callable[[Path], np.ndarray]) -> Pipeline:
    """Make the pipeline of an eager network; uint8 images become floats in [0, 1] on its device."""
    device, dtype, layout = _home(net)

    def predict(pixels: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).to(dtype, memory_format=layout).div_(255)
        return net(images).softmax(dim=1)

    return Pipeline(prepare, predict, str(device), _eager(dtype, layout), net)


def predictor_candidate(predict: Predictor, size: int) -> Candidate:
    """Make the candidate of an exported file; its graph takes uint8, so conversion and normalisation are timed too."""

    def inputs(batch: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)

    return Candidate(predict, inputs, str(predict.device), {**predict.details, "size": size})


def predictor_pipeline(predict: Predictor, prepare: Callable[[Path], np.ndarray]) -> Pipeline:
    """Make the pipeline of an exported file."""
    return Pipeline(prepare, predict, str(predict.device), predict.details)


def model_clock(
    candidates: Mapping[str, Candidate],
    *,
    reference: str | None = None,
    batches: Sequence[int] = (1, 32),
    settings: Settings | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Time the step from a preprocessed tensor to probabilities, without transfers to a device.

    Args:
        candidates: Name -> candidate; they take turns.
        reference: Name of the candidate that ratios are relative to.
        batches: Batch sizes, each measured separately.
        settings: Threads, warm-up and length of each measurement.
        progress: Called with the completed share, in [0, 1].

    Returns:
        One record a batch size; see `measure`.

    Raises:
        DeploymentError: There are no candidates, the reference is unknown, or a batch size is below 1.
    """

    def record(batch: int, part: Callable[[float], None] | None) -> dict[str, Any]:
        runners = {
            name: Runner(_bound(one.predict, one.inputs(batch)), one.device, one.details)
            for name, one in candidates.items()
        }
        return measure(runners, clock="model", batch=batch, reference=reference, settings=settings, progress=part)

    return _records(record, [one.module for one in candidates.values()], batches, progress)


def end_to_end_clock(
    pipelines: Mapping[str, Pipeline],
    files: Sequence[Path],
    *,
    reference: str | None = None,
    batches: Sequence[int] = (1, 32),
    settings: Settings | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Time the steps from an image file to its class: read, decode, resize, model, argmax.

    The files are used in order, repeatedly. In each round all pipelines get the same files. These are read once before,
    untimed, so that the disk does not change the comparison.

    Args:
        pipelines: Name -> pipeline; they take turns.
        files: Image files.
        reference: Name of the pipeline that ratios are relative to.
        batches: Batch sizes, each measured separately.
        settings: Threads, warm-up and length of each measurement.
        progress: Called with the completed share, in [0, 1].

    Returns:
        One record a batch size; see `measure`.

    Raises:
        DeploymentError: There are no files; and as in `model_clock`.
    """
    if not files:
        raise DeploymentError("the end-to-end clock has no images: give the files of a split that is not empty")

    def record(batch: int, part: Callable[[float], None] | None) -> dict[str, Any]:
        turn = partial(_turn, files, batch)
        runners = {name: Runner(_classify(one, turn), one.device, one.details) for name, one in pipelines.items()}
        named: Any = {"clock": "end_to_end", "batch": batch, "reference": reference, "settings": settings}
        before = partial(_read, turn)
        return measure(runners, **named, progress=part, before=before) | {"files": len(files)}

    return _records(record, [one.module for one in pipelines.values()], batches, progress)


def _home(net: nn.Module) -> tuple[torch.device, torch.dtype, torch.memory_format]:
    first = next(chain(net.parameters(), net.buffers()), torch.empty(0))
    kernels = [p for p in net.parameters() if p.dim() == 4 and not p.is_contiguous()]
    last = any(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    return first.device, first.dtype, torch.channels_last if last else torch.contiguous_format


def _eager(dtype: torch.dtype, layout: torch.memory_format) -> dict[str, Any]:
    values = {"precision": str(dtype), "memory_format": str(layout)}
    return {"runtime": "torch eager"} | {key: name.removeprefix("torch.") for key, name in values.items()}


def _records(
    record: Callable[[int, Callable[[float], None] | None], dict[str, Any]],
    modules: Sequence[nn.Module | None],
    batches: Sequence[int],
    progress: Callable[[float], None] | None,
) -> list[dict[str, Any]]:
    for batch in batches:
        if batch < 1:
            raise DeploymentError(f"batch={batch} is out of range: give a batch size of at least 1")
    records = []
    with ExitStack() as stack:
        for module in modules:
            if module is not None:
                stack.enter_context(evaluating(module))
        for position, batch in enumerate(batches):
            records.append(record(batch, _part(progress, position, len(batches))))
    return records


def _part(progress: Callable[[float], None] | None, position: int, parts: int) -> Callable[[float], None] | None:
    return None if progress is None else lambda share: progress((position + share) / parts)


def _bound(predict: Callable[[Any], Any], inputs: Any) -> Callable[[int], Any]:
    return lambda number: predict(inputs)


def _turn(files: Sequence[Path], batch: int, number: int) -> list[Path]:
    return [files[(number * batch + offset) % len(files)] for offset in range(batch)]


def _read(turn: Callable[[int], Sequence[Path]], number: int) -> None:
    for file in turn(number):
        file.read_bytes()


def _classify(pipeline: Pipeline, turn: Callable[[int], Sequence[Path]]) -> Callable[[int], np.ndarray]:
    def call(number: int) -> np.ndarray:
        answer = pipeline.predict(np.stack([pipeline.prepare(file) for file in turn(number)]))
        return answer.argmax(1).cpu().numpy() if isinstance(answer, torch.Tensor) else np.asarray(answer).argmax(1)

    return call
