"""Predictors: one interface to checkpoints and exported files, from images (B, S, S, 3) uint8 to probabilities."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deployment.formats import FORMATS, ExportedPredictor, Predictor, find_format, find_model
from litesort.errors import DeploymentError

__all__ = [
    "Artifact", "Predictions", "Predictor", "TorchPredictor", "best_device", "load_artifact", "load_exported",
    "predict_all", "predict_split",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Artifact:
    """An open checkpoint or exported file.

    Attributes:
        path: Its file.
        predict: Its predictor.
        card: Its metadata, plain data: "classes", "preprocessing", "config", "model", ...; exported files also
            "exported".
        net: The network of a checkpoint; None for an exported file.
    """

    path: Path
    predict: Predictor
    card: dict[str, Any]
    net: nn.Module | None = None


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions for the images of one split, in the order of its loader.

    Attributes:
        probabilities: (N, C) float32, rows sum to 1.
        targets: (N,) int64, positions in `classes`.
        indices: (N,) int64, positions in the data set.
        classes: (C,) names of the classes.
        names: (N,) names of the images, as reports show them.
        files: (N,) image files.
    """

    probabilities: np.ndarray
    targets: np.ndarray
    indices: np.ndarray
    classes: list[str]
    names: Sequence[str]
    files: Sequence[Path]


def best_device(accelerator: str) -> torch.device:
    """Return the device of a Lightning accelerator.

    Args:
        accelerator: "auto" (CUDA if it is available, otherwise the CPU), "cpu", "gpu", "cuda", "cuda:0" or "mps".

    Raises:
        DeploymentError: The device is not available, or its name is unknown.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    wanted = {"gpu": "cuda", "auto": "cuda" if available["cuda"] else "cpu"}.get(accelerator, accelerator)
    if not available.get(wanted.partition(":")[0]):
        known = ", ".join(name for name, there in available.items() if there)
        raise DeploymentError(f"accelerator={accelerator} is not available here: give auto or one of {known}")
    return torch.device(wanted)


class TorchPredictor:
    """Run a network in eager PyTorch.

    Args:
        net: (B, 3, S, S) float32 in [0, 1] -> logits (B, C). It is moved to `device` and put into evaluation mode.
        device: E.g. "cpu" or "cuda:0".
    """

    def __init__(self, net: nn.Module, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.net = net.to(self.device).to(memory_format=torch.channels_last).eval()
        self.details: dict[str, Any] = {"runtime": "torch eager", "version": str(torch.__version__)}

    @torch.inference_mode()
    def __call__(self, images: np.ndarray | Tensor) -> Tensor:
        """Map images (B, S, S, 3) uint8 to probabilities (B, C) float32, on the device."""
        pixels = torch.as_tensor(images).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return self.net(pixels.float().div_(255)).float().softmax(1)


def load_exported(
    path: str | Path, threads: int | None = 1, options: Mapping[str, Any] | None = None
) -> ExportedPredictor:
    """Open an exported file. Its suffix determines its format. No code from the file is run.

    Args:
        path: The file.
        threads: Threads of one call; None leaves them to the runtime.
        options: Further settings of the runtime, by its own names.

    Returns:
        Its predictor, with the stored metadata as `card`.

    Raises:
        DeploymentError: The suffix is unknown, the file does not exist, the runtime cannot run it, or litesort did not
            write it.
    """
    path = Path(path)
    if (found := find_format(path)) is not None:
        return found.load(path, threads, options)
    if (model := find_model(path)) is not None:
        raise DeploymentError(f"ckpt={path} is a companion file of an exported model: give ckpt={model}")
    known = ", ".join(export_format.suffix for export_format in FORMATS.values())
    raise DeploymentError(f"ckpt={path} has an unknown suffix: give a .ckpt, {known} file")


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
        load_net: Returns the network and the card of a checkpoint, as `lightning_modules.checkpoint.load_net` does.
        device: Device of a checkpoint's network. An exported file runs on the device that `options` names.
        threads: Threads of an exported file's runtime. PyTorch has one setting per process, `torch.set_num_threads`.
        options: Options of an exported file's runtime.

    Returns:
        The open checkpoint or exported file.

    Raises:
        DeploymentError: The file cannot be used, or a checkpoint is given runtime options.
        UserError: The error of `load_net`.
    """
    if path is None:
        raise DeploymentError("ckpt is not given: name a checkpoint or an exported file, e.g. ckpt=RUN/best.ckpt")
    if find_format(path) is not None or find_model(path) is not None:
        exported = load_exported(path, threads, options)
        return Artifact(Path(path), exported, exported.card)
    if options:
        raise DeploymentError(
            f"runtime options {', '.join(options)} do nothing with a checkpoint: export it, or leave them out"
        )
    net, card = load_net(path)
    return Artifact(Path(path), TorchPredictor(net, device), card, net)


def predict_all(predict: Predictor, loader: Iterable[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predict every image of a loader, with a progress bar.

    Args:
        predict: (B, S, S, 3) uint8 -> (B, C) probabilities.
        loader: Batches that begin with images, targets and indices, as `datamodules.batch.Batch` does.

    Returns:
        probabilities (N, C) float32, targets (N,) int64 and indices (N,) int64.
    """
    from rich.progress import track

    batches = [
        (predict(images), targets, indices)
        for images, targets, indices, *_ in track(loader, description="predicting", transient=True)
    ]
    probabilities, targets, indices = (torch.cat(parts).cpu().numpy() for parts in zip(*batches, strict=True))
    return probabilities, targets, indices


def predict_split(predict: Predictor, data: Any, split: str) -> Predictions:
    """Predict every image of one split.

    Args:
        predict: (B, S, S, 3) uint8 -> (B, C) probabilities, C classes in the order of the data.
        data: An `ImageDataModule` that is set up.
        split: Name of the split, as `data.loader` takes it.
    """
    probabilities, targets, indices = predict_all(predict, data.loader(split))
    names, files = [data.samples[i].path for i in indices], [data.source.file(i) for i in indices]
    return Predictions(probabilities, targets, indices, data.classes, names, files)
