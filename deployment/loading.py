"""What the predictors of exported files have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from deployment import DeploymentError


def read(path: Path) -> bytes:
    """Content of a file; DeploymentError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeploymentError(
            f"ckpt={path} cannot be read: {error.strerror or error}: give an existing file"
        ) from error


def array(photos: np.ndarray | Tensor) -> np.ndarray:
    """Photos in the form that runtimes other than torch take."""
    return np.ascontiguousarray(photos.cpu().numpy() if isinstance(photos, Tensor) else photos)


def made(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a latency entry says of the file itself."""
    return {"precision": record["exported"].get("precision"), "size": record["preprocessing"]["size"]}


def cannot_run(path: Path, runtime: str, error: Exception) -> DeploymentError:
    """The error of a file that its runtime refuses, in one line."""
    line = " ".join(str(error).split())[:200] or type(error).__name__
    return DeploymentError(f"ckpt={path} cannot be run by {runtime}: {line}: export it again, or use another format")
