"""Predictors: photos as a camera gives them, (B, S, S, 3) uint8, become probabilities, whatever runs the net."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deployment import DeploymentError


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

    @torch.inference_mode()
    def __call__(self, photos: np.ndarray | Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, C) float32 probabilities, on the device."""
        images = torch.as_tensor(photos).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return self.net(images.float().div_(255)).float().softmax(1)


def predict_all(predict: TorchPredictor, loader: Iterable[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
