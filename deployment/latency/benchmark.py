"""Measure a candidate and the reference in turn, in one run: milliseconds and their ratio."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from deployment.formats import FORMATS, Predictor, get_format
from deployment.latency.timer import (
    Candidate,
    Pipeline,
    Settings,
    end_to_end_clock,
    model_clock,
    predictor_candidate,
    predictor_pipeline,
    torch_candidate,
    torch_pipeline,
)
from litesort.errors import DeploymentError

MODEL = "model"  # name of an evaluated artifact in the records


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Times of candidates and of the reference, measured in one run.

    Attributes:
        records: One record a clock and batch size, as `deployment.latency.timer.measure` returns it.
    """

    records: list[dict[str, Any]]

    def entry(self, name: str = MODEL) -> dict[str, Any]:
        """Return the times of a candidate on the model clock, at the first batch size."""
        found: dict[str, Any] = self.records[0]["entries"][name]
        return found


class LatencyBenchmark:
    """Time candidates and a reference in turn, in one run.

    Args:
        device: Device of the networks, e.g. "cpu" or "cuda:0".
        batches: Images a call; a score needs 1.
        end_to_end: Measure the time from file to class too.
        images: Number of files that the end-to-end clock cycles through.
        settings: Length of a measurement, warm-up, threads.

    Raises:
        DeploymentError: A setting is out of range, or the device is not available.
    """

    def __init__(
        self,
        device: str = "cpu",
        batches: Sequence[int] = (1, 32),
        end_to_end: bool = True,
        images: int = 64,
        settings: Settings | None = None,
    ) -> None:
        if not batches or min(batches) < 1:
            raise DeploymentError(f"latency.batches={list(batches)} is out of range: list batch sizes of 1 or more")
        if images < 1:
            raise DeploymentError(f"latency.images={images} is out of range: give 1 or more")
        try:
            there = torch.device(device).type != "cuda" or torch.cuda.is_available()
        except RuntimeError as error:
            raise DeploymentError(f"latency.device={device} is not a device: give cpu or cuda:0") from error
        if not there:
            raise DeploymentError(f"latency.device={device} is not available: no CUDA device was found, give cpu")
        self.device, self.batches, self.end_to_end, self.images = device, list(batches), end_to_end, images
        self.settings = settings

    def measure(
        self,
        models: Mapping[str, tuple[nn.Module | Predictor, int]],
        reference: tuple[str, nn.Module, int],
        reader: Callable[[int], Callable[[Path], np.ndarray]],
        files: Sequence[Path],
    ) -> LatencyReport:
        """Time models and the reference, round by round.

        Args:
            models: Name -> model and image size S in pixels. A model is a network, (B, 3, S, S) float32 in [0, 1] ->
                logits (B, C), or the predictor of an exported file, (B, S, S, 3) uint8 -> probabilities (B, C).
                Predictors have their own setting of threads.
            reference: Name, network and image size of the reference. Networks are moved to `device` and to
                channels_last, which is almost twice as fast.
            reader: Takes S, returns a function: file -> (S, S, 3) uint8.
            files: Images for the end-to-end clock.

        Returns:
            Records with an entry for each model and one for the reference.
        """
        name, reference_net, side = reference
        common: dict[str, Any] = {"reference": name, "batches": self.batches, "settings": self.settings}
        sides = {**models, name: (reference_net, side)}
        for module, _ in sides.values():
            if isinstance(module, nn.Module):
                module.to(self.device).to(memory_format=torch.channels_last)
        records = model_clock({key: _candidate(model, px) for key, (model, px) in sides.items()}, **common)
        if self.end_to_end:
            pipelines = {key: _pipeline(model, reader(px)) for key, (model, px) in sides.items()}
            records += end_to_end_clock(pipelines, files[: self.images], **common)
        return LatencyReport(records)


def _candidate(model: nn.Module | Predictor, size: int) -> Candidate:
    return torch_candidate(model, size) if isinstance(model, nn.Module) else predictor_candidate(model, size)


def _pipeline(model: nn.Module | Predictor, prepare: Callable[[Path], np.ndarray]) -> Pipeline:
    return torch_pipeline(model, prepare) if isinstance(model, nn.Module) else predictor_pipeline(model, prepare)


class Times(NamedTuple):
    """Time of one image through a network and through a reference.

    Attributes:
        ratio: Median over rounds of the network's time divided by the reference's; below 1: the network is faster.
        net, reference: Medians, ms.
    """

    ratio: float
    net: float
    reference: float


Clock = Callable[[nn.Module, nn.Module, int], Times]
EAGER = "eager"


def clock_in(runtime: str) -> Clock:
    """Return a function that times one image through two networks in turn: network, reference, image size -> Times.

    Args:
        runtime: A format, e.g. "openvino": both networks are exported and timed in it; "eager": timed in PyTorch.

    Raises:
        DeploymentError: The runtime is unknown, or its packages are missing.
    """
    if runtime == EAGER:
        return time_eager
    if runtime not in FORMATS:
        raise DeploymentError(f"prune.runtime={runtime} is unknown: give one of {', '.join([*FORMATS, EAGER])}")
    get_format(runtime).check_packages("fp32")

    def clock(net: nn.Module, reference: nn.Module, size: int) -> Times:
        with tempfile.TemporaryDirectory() as folder:
            nets = {"net": net, "reference": reference}
            return _times({name: _exported(part, Path(folder) / name, runtime, size) for name, part in nets.items()})

    return clock


def time_eager(net: nn.Module, reference: nn.Module, size: int, settings: Settings | None = None) -> Times:
    """Time one image through `net` and through `reference` in turn, in eager PyTorch, on their own devices.

    Args:
        net: (B, 3, size, size) float in [0, 1] -> logits (B, C).
        reference: The network to compare with, of the same shapes.
        size: Image size, px.
        settings: Length of the measurement; None: at most a second.
    """
    return _times({"net": torch_candidate(net, size), "reference": torch_candidate(reference, size)}, settings)


def _exported(net: nn.Module, stem: Path, runtime: str, size: int) -> Candidate:
    """Export a network and open it in a runtime; the card has placeholders, which do not change the time."""
    classes = [str(number) for number in range(int(net.num_classes))]  # type: ignore[arg-type]
    square = {"size": size, "resize": "pad", "mean": [0.0] * 3, "std": [1.0] * 3}
    model = {"name": "network", "num_classes": len(classes), "kwargs": {}}
    card = {"classes": classes, "preprocessing": square, "config": {}, "model": model, "versions": {}}
    one = FORMATS[runtime]
    return predictor_candidate(one.load(one.write(net, stem.with_name(f"{stem.name}{one.suffix}"), card)), size)


def _times(candidates: dict[str, Candidate], settings: Settings | None = None) -> Times:
    quick = settings or Settings(seconds=1.0, min_rounds=15, max_rounds=200)
    (record,) = model_clock(candidates, reference="reference", batches=[1], settings=quick)
    entries = record["entries"]
    return Times(entries["net"]["ratio"], entries["net"]["median_ms"], entries["reference"]["median_ms"])
