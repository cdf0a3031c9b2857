"""Pictures of a run for TensorBoard and MLflow, under the keys that W&B has them under."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from reports.run_folder import read_mistakes

FILES = {"confusion_matrix": "confusion.png", "reliability": "reliability.png"}


def takes_pictures(logger: Logger) -> bool:
    """Whether `log_picture` would hand it one."""
    return isinstance(logger, TensorBoardLogger | MLFlowLogger) and getattr(rank_zero_only, "rank", 0) == 0


def log_picture(loggers: Iterable[Logger], key: str, picture: np.ndarray, step: int = 0) -> None:
    """Log (H, W, 3) uint8 under `key`: an image of TensorBoard, an artifact `key`.png of MLflow."""
    for logger in filter(takes_pictures, loggers):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, picture, step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, Image.fromarray(picture), artifact_file=f"{key}.png")


def log_pictures(loggers: Iterable[Logger], folder: Path, split: str = "test") -> None:
    """Log what an evaluation drew into `folder`: `<split>/confusion_matrix`, `/reliability`, `/mistakes` in a row."""
    chosen = [logger for logger in loggers if takes_pictures(logger)]
    if not chosen:
        return
    for key, name in FILES.items():
        if (folder / name).is_file():
            with Image.open(folder / name) as image:
                log_picture(chosen, f"{split}/{key}", np.asarray(image.convert("RGB")))
    photos = []
    for mistake in read_mistakes(folder):
        with Image.open(io.BytesIO(base64.b64decode(mistake["photo"].partition(",")[2]))) as image:
            photos.append(np.asarray(image.convert("RGB")))
    if photos:
        log_picture(chosen, f"{split}/mistakes", np.concatenate(photos, axis=1))
