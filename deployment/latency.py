"""Two clocks: the model alone (preprocessed tensor to probabilities), and end to end (photo file to class)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Contender:
    """What is measured on the model clock: `predict(inputs(batch))` -> probabilities (batch, C)."""

    predict: Callable[[Any], Any]
    inputs: Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What is measured end to end: `prepare(file)` -> (S, S, 3) uint8, `predict((B, S, S, 3) uint8)` -> (B, C)."""

    prepare: Callable[[Path], np.ndarray]
    predict: Callable[[np.ndarray], Any]


def torch_contender(net: torch.nn.Module, size: int, device: str = "cpu") -> Contender:
    """Contender of an eager net: (B, 3, S, S) float32 in [0, 1] -> softmax."""
    raise NotImplementedError


def torch_pipeline(net: torch.nn.Module, prepare: Callable[[Path], np.ndarray], device: str = "cpu") -> Pipeline:
    """Pipeline of an eager net."""
    raise NotImplementedError


def model_clock(contenders: Mapping[str, Contender], *, reference: str | None = None, batches: Sequence[int] = (1, 32),
                **settings: Any) -> list[dict[str, Any]]:
    """One record a batch size."""
    raise NotImplementedError


def end_to_end_clock(pipelines: Mapping[str, Pipeline], files: Sequence[Path], *, reference: str | None = None,
                     batches: Sequence[int] = (1,), **settings: Any) -> list[dict[str, Any]]:
    """One record a batch size."""
    raise NotImplementedError
