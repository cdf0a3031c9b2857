"""The time of nets and exported files on both clocks, in turn with a reference model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deployment import DeploymentError
from deployment.formats import Predictor
from deployment.latency import (
    Contender,
    Pipeline,
    end_to_end_clock,
    model_clock,
    predictor_contender,
    predictor_pipeline,
    torch_contender,
    torch_pipeline,
)
from deployment.stopwatch import Settings

MODEL = "model"  # the judged net's name in the records


class Clocks:
    """How time is measured.

    Args:
        device: Where the nets run, e.g. "cpu" or "cuda:0".
        batches: Photos a call; 1 must be among them where a score is wanted.
        end_to_end: Measure from file to class too.
        photos: Files that the end-to-end clock goes through, over and over.
        settings: Length of a measurement, warm-up, threads.

    Raises:
        DeploymentError: A setting is out of range, or the device is not here.
    """

    def __init__(
        self,
        device: str = "cpu",
        batches: Sequence[int] = (1, 32),
        end_to_end: bool = True,
        photos: int = 64,
        settings: Settings | None = None,
    ) -> None:
        if not batches or min(batches) < 1:
            raise DeploymentError(f"latency.batches={list(batches)} is out of range: list batch sizes of 1 or more")
        if photos < 1:
            raise DeploymentError(f"latency.photos={photos} is out of range: give 1 or more")
        try:
            there = torch.device(device).type != "cuda" or torch.cuda.is_available()
        except RuntimeError as error:
            raise DeploymentError(f"latency.device={device} is not a device: give cpu or cuda:0") from error
        if not there:
            raise DeploymentError(f"latency.device={device} is not here: no CUDA device was found, give cpu")
        self.device, self.batches, self.end_to_end, self.photos = device, list(batches), end_to_end, photos
        self.settings = settings

    def measure(
        self,
        net: nn.Module | Predictor,
        size: int,
        reference: tuple[str, nn.Module, int],
        reader: Callable[[int], Callable[[Path], np.ndarray]],
        files: Sequence[Path],
    ) -> list[dict[str, Any]]:
        """Time one model, under the name "model", and the reference: see `measure_all`."""
        return self.measure_all({MODEL: (net, size)}, reference, reader, files)

    def measure_all(
        self,
        models: Mapping[str, tuple[nn.Module | Predictor, int]],
        reference: tuple[str, nn.Module, int],
        reader: Callable[[int], Callable[[Path], np.ndarray]],
        files: Sequence[Path],
    ) -> list[dict[str, Any]]:
        """Time models and the reference, round by round.

        Args:
            models: Name -> a net, (B, 3, S, S) float32 in [0, 1] -> logits (B, C), or the predictor of an exported
                file, which takes (B, S, S, 3) uint8 and normalises by itself; and its side S in pixels. Predictors
                bring their threads with them.
            reference: Name, net and side of the yardstick. Nets are moved to `device`, and to channels_last: the layout
                alone makes a difference of almost two.
            reader: Takes S, returns what turns a file into (S, S, 3) uint8.
            files: Photos for the end-to-end clock.

        Returns:
            Records of `deployment.latency`, with an entry for each model and one for the reference.
        """
        name, yardstick, side = reference
        common: dict[str, Any] = {"reference": name, "batches": self.batches, "settings": self.settings}
        sides = {**models, name: (yardstick, side)}
        for module, _ in sides.values():
            if isinstance(module, nn.Module):
                module.to(self.device).to(memory_format=torch.channels_last)
        records = model_clock({key: _contender(model, px) for key, (model, px) in sides.items()}, **common)
        if self.end_to_end:
            pipelines = {key: _pipeline(model, reader(px)) for key, (model, px) in sides.items()}
            records += end_to_end_clock(pipelines, files[: self.photos], **common)
        return records


def _contender(model: nn.Module | Predictor, size: int) -> Contender:
    return torch_contender(model, size) if isinstance(model, nn.Module) else predictor_contender(model, size)


def _pipeline(model: nn.Module | Predictor, prepare: Callable[[Path], np.ndarray]) -> Pipeline:
    return torch_pipeline(model, prepare) if isinstance(model, nn.Module) else predictor_pipeline(model, prepare)
