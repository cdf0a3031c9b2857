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
        A function: images (B, 3, S, S) float in [0, 1] on any device -> log-probabilities (B, C) float32 on that
        device, at the temperature of the file; the names of its classes; and its image size S, px.

    Raises:
        DeploymentError: The file cannot be used; the message begins with `teacher=`.
    """
    register(formats)
    try:
        predict = load_exported(path, threads=None)
    except DeploymentError as error:
        raise DeploymentError(str(error).replace("ckpt=", "teacher=", 1)) from error

    def answer(images: Tensor) -> Tensor:
        pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return predict(pixels).float().clamp_min(1e-12).log().to(images.device)

    return answer, list(predict.card["classes"]), int(predict.card["preprocessing"]["size"])
