"""Predictors: photos as a camera gives them, (B, S, S, 3) uint8, become probabilities, whatever runs the net.

All have the same call, and `details`: plain values that say which runtime answers, with which threads and options.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from deployment import DeploymentError
from deployment.runtime_onnx import OnnxPredictor
from deployment.runtime_openvino import OpenVINOPredictor
from deployment.runtime_torch import ExportedTorchPredictor

EXPORTED = (".onnx", ".xml", ".pt2")


class Predictor(Protocol):
    """Whatever answers photos."""

    device: torch.device
    details: dict[str, Any]

    def __call__(self, photos: np.ndarray | Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, C) float32 probabilities, on `device`."""
        ...


class Artefact(NamedTuple):
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
    def __call__(self, photos: np.ndarray | Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, C) float32 probabilities, on the device."""
        images = torch.as_tensor(photos).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return self.net(images.float().div_(255)).float().softmax(1)


def load_exported(
    path: str | Path, threads: int | None = 1, options: Mapping[str, Any] | None = None
) -> OnnxPredictor | OpenVINOPredictor | ExportedTorchPredictor:
    """Predictor of an exported file, by its suffix: .onnx, .xml (OpenVINO), .pt2 (torch.export).

    No code from the file is run.

    Raises:
        DeploymentError: Another suffix, no such file, a file that its runtime cannot run or that is not litesort's.
    """
    path = Path(path)
    if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        raise DeploymentError(f"ckpt={path} holds the weights only: give ckpt={path.with_suffix('.xml')}")
    kinds: dict[str, Any] = {".onnx": OnnxPredictor, ".xml": OpenVINOPredictor, ".pt2": ExportedTorchPredictor}
    if path.suffix not in kinds:
        raise DeploymentError(f"ckpt={path} is of no kind that is known: give a .ckpt, {', '.join(kinds)} file")
    return kinds[path.suffix](path, threads, options)


def load_artefact(
    path: str | Path | None,
    load_net: Callable[[str | Path], tuple[nn.Module, dict[str, Any]]],
    device: str | torch.device = "cpu",
    threads: int | None = 1,
    options: Mapping[str, Any] | None = None,
) -> Artefact:
    """Load whatever can answer photos: a checkpoint or an exported file.

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
    if Path(path).suffix in (*EXPORTED, ".bin"):
        exported = load_exported(path, threads, options)
        return Artefact(exported, exported.record, None)
    if options:
        raise DeploymentError(
            f"runtime options {', '.join(options)} do nothing with a checkpoint: export it, or leave them out"
        )
    net, record = load_net(path)
    return Artefact(TorchPredictor(net, device), record, net)


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
