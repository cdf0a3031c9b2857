"""Candidates of the latency benchmark, and its two clocks: the model alone, and end to end from file to class."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deployment.complexity import eval_mode
from deployment.formats import Predictor
from deployment.latency.timer import Runner, Settings, measure
from litesort.errors import DeploymentError

ReferenceTimes = Mapping[int, dict[str, list[float]]]  # batch size -> name of a reference -> medians of its turns, ms


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of any runtime for the model clock. Its inputs are created before the clock starts.

    Attributes:
        predict: Maps the result of `inputs` to probabilities (B, C).
        inputs: Maps a batch size B to preprocessed images, as the runtime takes them.
        device: Torch device to synchronise with; "cpu" for runtimes that return when they are done.
        details: Plain values for the entry (size, precision, runtime and its options).
        module: Network to keep in evaluation mode during the measurement.
        same_runtime: Name of the candidate that `ratio_same_runtime` is relative to.
    """

    predict: Callable[[Any], Any]
    inputs: Callable[[int], Any]
    device: str = "cpu"
    details: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None
    same_runtime: str | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A reader and a model of any runtime for the end-to-end clock.

    Attributes:
        prepare: Maps a file to its pixels, (S, S, 3) uint8.
        predict: Maps images (B, S, S, 3) uint8 to probabilities (B, C), a tensor or an array.
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
    """Return the candidate of an eager network, on the device of the network.

    Args:
        net: (B, 3, size, size) float in [0, 1] -> logits (B, C).
        size: Side of the images in px.
    """
    device, dtype, layout = _device_dtype_layout(net)

    def inputs(batch: int) -> torch.Tensor:
        # A separate generator keeps the random state of a training unchanged.
        random = torch.Generator().manual_seed(0)
        return torch.rand(batch, 3, size, size, generator=random).to(device, dtype, memory_format=layout)

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        return net(pixels).softmax(dim=1)

    return Candidate(predict, inputs, str(device), _eager_details(dtype, layout) | {"size": size}, net)


def torch_pipeline(net: nn.Module, prepare: Callable[[Path], np.ndarray]) -> Pipeline:
    """Return the pipeline of an eager network. Images are converted to floats in [0, 1] on the device of the network.

    Args:
        net: (B, 3, S, S) float in [0, 1] -> logits (B, C).
        prepare: Maps a file to its pixels, (S, S, 3) uint8.
    """
    device, dtype, layout = _device_dtype_layout(net)

    def predict(pixels: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).to(dtype, memory_format=layout).div_(255)
        return net(images).softmax(dim=1)

    return Pipeline(prepare, predict, str(device), _eager_details(dtype, layout), net)


def predictor_candidate(predict: Predictor, size: int) -> Candidate:
    """Return the candidate of an exported file. Its graph takes uint8, so conversion and normalisation are timed too.

    If the predictor has a method `run` from array to array, `run` is timed, as a program without torch calls it.

    Args:
        predict: Images (B, size, size, 3) uint8 -> probabilities (B, C).
        size: Side of the images in px.
    """

    def inputs(batch: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)

    run = getattr(predict, "run", predict)
    return Candidate(run, inputs, str(predict.device), {**predict.details, "size": size})


def predictor_pipeline(predict: Predictor, prepare: Callable[[Path], np.ndarray]) -> Pipeline:
    """Return the pipeline of an exported file; `predict` and `prepare` as in `Pipeline`."""
    return Pipeline(prepare, getattr(predict, "run", predict), str(predict.device), predict.details)


def model_clock(
    candidates: Mapping[str, Candidate],
    *,
    reference: str | None = None,
    batches: Sequence[int] = (1,),
    reference_times: ReferenceTimes | None = None,
    settings: Settings | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Time the step from preprocessed images to probabilities, without transfers to a device.

    Args:
        candidates: Name -> candidate; they take turns.
        reference: Name of the candidate that ratios are relative to.
        batches: Batch sizes, each measured separately.
        reference_times: Known times of references, by batch size; see `measure`.
        settings: Threads and length of each measurement.
        progress: Called with the completed share, in [0, 1].

    Returns:
        One record per batch size; see `measure`.

    Raises:
        DeploymentError: There are no candidates, a reference is unknown, or a batch size is below 1.
    """

    def record(batch: int, part: Callable[[float], None] | None) -> dict[str, Any]:
        runners = {
            name: Runner(_with_inputs(one.predict, one.inputs(batch)), one.device, one.details, one.same_runtime)
            for name, one in candidates.items()
        }
        times = None if reference_times is None else reference_times[batch]
        common: Any = {"clock": "model", "batch": batch, "reference": reference, "reference_times": times}
        return measure(runners, **common, settings=settings, progress=part)

    return _measure_batches(record, [one.module for one in candidates.values()], batches, progress)


def end_to_end_clock(
    pipelines: Mapping[str, Pipeline],
    files: Sequence[Path],
    *,
    batches: Sequence[int] = (1,),
    settings: Settings | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Time the steps from an image file to its class: read, decode, resize, model, argmax.

    The files are used in order, repeatedly. In each round all pipelines get the same files. All files are read once
    before the measurement, so that the disk does not affect it.

    Args:
        pipelines: Name -> pipeline; they take turns.
        files: Image files.
        batches: Batch sizes, each measured separately.
        settings: Threads and length of each measurement.
        progress: Called with the completed share, in [0, 1].

    Returns:
        One record per batch size; see `measure`.

    Raises:
        DeploymentError: There are no files; and as in `model_clock`.
    """
    if not files:
        raise DeploymentError("the end-to-end clock has no images: give the files of a split that is not empty")
    for file in files:
        file.read_bytes()

    def record(batch: int, part: Callable[[float], None] | None) -> dict[str, Any]:
        files_of_call = partial(_files_of_call, files, batch)
        runners = {
            name: Runner(_classify(one, files_of_call), one.device, one.details) for name, one in pipelines.items()
        }
        common: Any = {"clock": "end_to_end", "batch": batch, "settings": settings, "progress": part}
        return measure(runners, **common, same_input=True) | {"files": len(files)}

    return _measure_batches(record, [one.module for one in pipelines.values()], batches, progress)


def _device_dtype_layout(net: nn.Module) -> tuple[torch.device, torch.dtype, torch.memory_format]:
    first = next(chain(net.parameters(), net.buffers()), torch.empty(0))
    kernels = [p for p in net.parameters() if p.dim() == 4 and not p.is_contiguous()]
    last = any(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    return first.device, first.dtype, torch.channels_last if last else torch.contiguous_format


def _eager_details(dtype: torch.dtype, layout: torch.memory_format) -> dict[str, Any]:
    values = {"precision": str(dtype), "memory_format": str(layout)}
    return {"runtime": "torch eager"} | {key: name.removeprefix("torch.") for key, name in values.items()}


def _measure_batches(
    record: Callable[[int, Callable[[float], None] | None], dict[str, Any]],
    modules: Sequence[nn.Module | None],
    batches: Sequence[int],
    progress: Callable[[float], None] | None,
) -> list[dict[str, Any]]:
    for batch in batches:
        if batch < 1:
            raise DeploymentError(f"batch={batch} is invalid: expected a batch size of at least 1")
    records = []
    with ExitStack() as stack:
        for module in modules:
            if module is not None:
                stack.enter_context(eval_mode(module))
        for position, batch in enumerate(batches):
            records.append(record(batch, _partial_progress(progress, position, len(batches))))
    return records


def _partial_progress(
    progress: Callable[[float], None] | None, position: int, parts: int
) -> Callable[[float], None] | None:
    return None if progress is None else lambda share: progress((position + share) / parts)


def _with_inputs(predict: Callable[[Any], Any], inputs: Any) -> Callable[[int], Any]:
    return lambda number: predict(inputs)


def _files_of_call(files: Sequence[Path], batch: int, number: int) -> list[Path]:
    return [files[(number * batch + offset) % len(files)] for offset in range(batch)]


def _classify(pipeline: Pipeline, files_of_call: Callable[[int], Sequence[Path]]) -> Callable[[int], np.ndarray]:
    def call(number: int) -> np.ndarray:
        probabilities = pipeline.predict(np.stack([pipeline.prepare(file) for file in files_of_call(number)]))
        if isinstance(probabilities, torch.Tensor):
            return probabilities.argmax(1).cpu().numpy()
        return np.asarray(probabilities).argmax(1)

    return call
