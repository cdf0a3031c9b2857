"""Images of a run for TensorBoard and MLflow, under the same keys as in W&B."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from reports.run_folder import read_mistakes

MAX_MISTAKES = 12  # largest number of mistakes side by side
FILES = {"confusion_matrix": "confusion.png", "reliability": "reliability.png"}


def accepts_images(logger: Logger) -> bool:
    """Return whether `log_image` sends images to this logger."""
    return isinstance(logger, TensorBoardLogger | MLFlowLogger) and getattr(rank_zero_only, "rank", 0) == 0


def log_image(loggers: Iterable[Logger], key: str, image: np.ndarray, step: int = 0) -> None:
    """Log (H, W, 3) uint8 under `key`: as an image in TensorBoard, as the artifact `key`.png in MLflow."""
    for logger in filter(accepts_images, loggers):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, image, step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, Image.fromarray(image), artifact_file=f"{key}.png")


def log_figures(loggers: Iterable[Logger], folder: Path, split: str = "test") -> None:
    """Log the figures of an evaluation in `folder`.

    Keys: `<split>/confusion_matrix`, `<split>/reliability`, `<split>/mistakes` (the worst mistakes side by side).
    """
    chosen = [logger for logger in loggers if accepts_images(logger)]
    if not chosen:
        return
    for key, name in FILES.items():
        if (folder / name).is_file():
            with Image.open(folder / name) as image:
                log_image(chosen, f"{split}/{key}", np.asarray(image.convert("RGB")))
    images = []
    for mistake in read_mistakes(folder)[:MAX_MISTAKES]:
        with Image.open(io.BytesIO(base64.b64decode(mistake["image"].partition(",")[2]))) as image:
            images.append(np.asarray(image.convert("RGB")))
    if images:
        log_image(chosen, f"{split}/mistakes", np.concatenate(images, axis=1))
