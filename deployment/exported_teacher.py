"""Use an exported file as a teacher."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from deployment.formats import Format, register
from deployment.predictors import load_exported
from litesort.errors import DeploymentError


def open_exported(
    path: str, formats: Mapping[str, Format] | None = None
) -> tuple[Callable[[Tensor], Tensor], list[str], int]:
    """Open an exported file as a teacher.

    Args:
        path: The file.
        formats: Further formats; see `deployment.formats.register`.

    Returns:
        Three values: a function from images (B, 3, S, S) float in [0, 1] on any device to log-probabilities (B, C)
        float32 on the same device, at the temperature of the file; the class names (C,); the image size S in px.

    Raises:
        DeploymentError: The file cannot be used. The message begins with `teacher=`.
    """
    register(formats)
    try:
        predictor = load_exported(path, threads=None)
    except DeploymentError as error:
        raise DeploymentError(str(error).replace("ckpt=", "teacher=", 1)) from error

    def log_probabilities(images: Tensor) -> Tensor:
        pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return predictor(pixels).float().clamp_min(1e-12).log().to(images.device)

    return log_probabilities, list(predictor.card["classes"]), int(predictor.card["preprocessing"]["size"])
