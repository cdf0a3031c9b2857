"""Predictors: a checkpoint or an exported file maps images (B, S, S, 3) uint8 to probabilities, whatever runs it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from deployment.formats import FORMATS, ExportedPredictor, Predictor, find_format, find_model
from litesort.errors import DeploymentError

__all__ = ["Artifact", "Predictor", "TorchPredictor", "best_device", "load_artifact", "load_exported", "predict_all"]


class Artifact(NamedTuple):
    """A checkpoint or an exported file, ready to answer.

    Attributes:
        predict: Its predictor.
        record: Plain data: "classes", "preprocessing", "config", "model", ...; exported files also "exported".
        net: The network of a checkpoint; None for an exported file.
    """

    predict: Predictor
    record: dict[str, Any]
    net: nn.Module | None


def best_device(accelerator: str) -> torch.device:
    """Device of an accelerator as Lightning names them: "auto" is CUDA where there is one, else the CPU."""
    wanted = {"gpu": "cuda", "auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(accelerator, accelerator)
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeploymentError(f"accelerator={accelerator} is not here: no CUDA device was found, give accelerator=cpu")
    return torch.device(wanted)


class TorchPredictor:
    """Run a net in eager PyTorch.

    Args:
        net: (B, 3, S, S) float32 in [0, 1] -> logits (B, C); it is put into evaluation mode, on `device`.
        device: Where it runs, e.g. "cpu" or "cuda:0".
    """

    def __init__(self, net: nn.Module, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.net = net.to(self.device).to(memory_format=torch.channels_last).eval()
        self.details: dict[str, Any] = {"runtime": "torch eager", "version": str(torch.__version__)}

    @torch.inference_mode()
    def __call__(self, images: np.ndarray | Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, C) float32 probabilities, on the device."""
        pixels = torch.as_tensor(images).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return self.net(pixels.float().div_(255)).float().softmax(1)


def load_exported(
    path: str | Path, threads: int | None = 1, options: Mapping[str, Any] | None = None
) -> ExportedPredictor:
    """Predictor of an exported file, by the suffix of its format.

    No code from the file is run.

    Args:
        path: The file.
        threads: Threads of one call; None leaves them to the runtime.
        options: Further settings of the runtime.

    Raises:
        DeploymentError: Another suffix, no such file, a file that its runtime cannot run or that is not litesort's.
    """
    path = Path(path)
    if (found := find_format(path)) is not None:
        return found.load(path, threads, options)
    if (model := find_model(path)) is not None:
        raise DeploymentError(f"ckpt={path} is only a part of an exported model: give ckpt={model}")
    known = ", ".join(one.suffix for one in FORMATS.values())
    raise DeploymentError(f"ckpt={path} is of an unknown kind: give a .ckpt, {known} file")


def load_artifact(
    path: str | Path | None,
    load_net: Callable[[str | Path], tuple[nn.Module, dict[str, Any]]],
    device: str | torch.device = "cpu",
    threads: int | None = 1,
    options: Mapping[str, Any] | None = None,
) -> Artifact:
    """Load a checkpoint or an exported file.

    Args:
        path: The file.
        load_net: Rebuilds a checkpoint's network and returns it with the record, as lightning_modules.checkpoint does.
        device: Where a checkpoint's network runs; exported files run where their options say.
        threads: Threads of an exported file's runtime. PyTorch has one setting a process: `torch.set_num_threads`.
        options: An exported file's runtime's own options; DeploymentError where a checkpoint is given some.

    Raises:
        DeploymentError: The file cannot be used; and what `load_net` raises.
    """
    if path is None:
        raise DeploymentError("ckpt is not given: name a checkpoint or an exported file, e.g. ckpt=RUN/best.ckpt")
    if find_format(path) is not None or find_model(path) is not None:
        exported = load_exported(path, threads, options)
        return Artifact(exported, exported.record, None)
    if options:
        raise DeploymentError(
            f"runtime options {', '.join(options)} do nothing with a checkpoint: export it, or leave them out"
        )
    net, record = load_net(path)
    return Artifact(TorchPredictor(net, device), record, net)


def predict_all(predict: Predictor, loader: Iterable[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answer every photo of a loader, with a progress bar.

    Args:
        predict: (B, S, S, 3) uint8 -> (B, C) probabilities.
        loader: Batches that begin with images, targets and indices, as `datamodules.batch.Batch` does.

    Returns:
        probabilities (N, C) float32, targets (N,) int64 and indices (N,) int64.
    """
    from rich.progress import track

    answers = [
        (predict(images), targets, indices)
        for images, targets, indices, *_ in track(loader, description="judging", transient=True)
    ]
    probabilities, targets, indices = (torch.cat(parts).cpu().numpy() for parts in zip(*answers, strict=True))
    return probabilities, targets, indices
