"""Two clocks: the model alone (preprocessed tensor to probabilities), and end to end (photo file to class).

Seconds do not transfer between machines or between minutes, so everything that is to be compared runs in turn within
one measurement, a reference among it, and each entry carries its ratio to that reference.
"""

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

from deployment import DeploymentError
from deployment.formats import Predictor
from deployment.profile import evaluating
from deployment.stopwatch import Runner, Settings, measure


@dataclass(frozen=True, slots=True)
class Contender:
    """What runs on the model clock: any runtime, its inputs made before the clock starts.

    Attributes:
        predict: Takes what `inputs` made, returns probabilities (B, C).
        inputs: Takes a batch size B, returns preprocessed photos in the runtime's own form.
        device: Torch device that has to be waited for; "cpu" for runtimes that return when they are done.
        details: Plain values to note in the entry (size, precision, runtime and its options).
        module: Net to hold in evaluation mode meanwhile.
    """

    predict: Callable[[Any], Any]
    inputs: Callable[[int], Any]
    device: str = "cpu"
    details: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What runs end to end: decode and resize are handed in, so that any reader and any runtime can be clocked.

    Attributes:
        prepare: Takes a file, returns (S, S, 3) uint8.
        predict: Takes (B, S, S, 3) uint8, returns probabilities (B, C), a tensor or an array.
        device: Torch device that has to be waited for.
        details: Plain values to note in the entry.
        module: Net to hold in evaluation mode meanwhile.
    """

    prepare: Callable[[Path], np.ndarray]
    predict: Callable[[np.ndarray], Any]
    device: str = "cpu"
    details: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None


def torch_contender(net: nn.Module, size: int) -> Contender:
    """Contender of an eager net, where it is: (B, 3, size, size) float in [0, 1] -> net -> softmax."""
    device, dtype, layout = _home(net)

    def inputs(batch: int) -> torch.Tensor:
        # Its own generator: a measurement must not move the random state of a training run.
        random = torch.Generator().manual_seed(0)
        return torch.rand(batch, 3, size, size, generator=random).to(device, dtype, memory_format=layout)

    def predict(photos: torch.Tensor) -> torch.Tensor:
        return net(photos).softmax(dim=1)

    return Contender(predict, inputs, str(device), _eager(dtype, layout) | {"size": size}, net)


def torch_pipeline(net: nn.Module, prepare: Callable[[Path], np.ndarray]) -> Pipeline:
    """Pipeline of an eager net, where it is: uint8 photos go to its device and become floats in [0, 1] there."""
    device, dtype, layout = _home(net)

    def predict(photos: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(photos).to(device).permute(0, 3, 1, 2).to(dtype, memory_format=layout).div_(255)
        return net(images).softmax(dim=1)

    return Pipeline(prepare, predict, str(device), _eager(dtype, layout), net)


def predictor_contender(predict: Predictor, size: int) -> Contender:
    """Contender of an exported file: its graph takes uint8 photos, so conversion and normalisation are timed too."""

    def inputs(batch: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)

    return Contender(predict, inputs, str(predict.device), {**predict.details, "size": size})


def predictor_pipeline(predict: Predictor, prepare: Callable[[Path], np.ndarray]) -> Pipeline:
    """Pipeline of an exported file."""
    return Pipeline(prepare, predict, str(predict.device), predict.details)


def model_clock(
    contenders: Mapping[str, Contender],
    *,
    reference: str | None = None,
    batches: Sequence[int] = (1, 32),
    settings: Settings | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Time what lies between a preprocessed tensor and probabilities; transfers to a device stay out.

    Args:
        contenders: Name -> what to measure; all take turns.
        reference: Name of the contender that ratios are taken to.
        batches: Batch sizes, each measured apart.
        settings: Threads, warm-up and length of each measurement.
        progress: Called with the share done, in [0, 1].

    Returns:
        One record of plain data a batch size: see `deployment.stopwatch.measure`.

    Raises:
        DeploymentError: Nothing to measure, an unknown reference, or a batch size below 1.
    """

    def record(batch: int, part: Callable[[float], None] | None) -> dict[str, Any]:
        runners = {
            name: Runner(_bound(one.predict, one.inputs(batch)), one.device, one.details)
            for name, one in contenders.items()
        }
        return measure(runners, clock="model", batch=batch, reference=reference, settings=settings, progress=part)

    return _records(record, [one.module for one in contenders.values()], batches, progress)


def end_to_end_clock(
    pipelines: Mapping[str, Pipeline],
    files: Sequence[Path],
    *,
    reference: str | None = None,
    batches: Sequence[int] = (1, 32),
    settings: Settings | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Time what lies between a photo's file and its class: read, decode, resize, model, argmax.

    Files are gone through in order and over again; in each round all pipelines get the same ones, which were read once
    before, so that the disk is not what is compared.

    Args:
        pipelines: Name -> what to measure; all take turns.
        files: Photos that can be read.
        reference: Name of the pipeline that ratios are taken to.
        batches: Batch sizes, each measured apart.
        settings: Threads, warm-up and length of each measurement.
        progress: Called with the share done, in [0, 1].

    Returns:
        One record of plain data a batch size: see `deployment.stopwatch.measure`.

    Raises:
        DeploymentError: No files; and what `model_clock` raises.
    """
    if not files:
        raise DeploymentError("the end-to-end clock got no photos: give the files of a split that is not empty")

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
    names = {"precision": str(dtype), "memory_format": str(layout)}
    return {"runtime": "torch eager"} | {key: name.removeprefix("torch.") for key, name in names.items()}


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
