"""torch.export files, run by torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployment import DeploymentError
from deployment.loading import made, read
from deployment.pt2 import read_pt2
from deployment.record import unpack


class ExportedTorchPredictor:
    """Run a torch.export file (.pt2) in PyTorch, which loads it through `deployment.pt2`.

    Args:
        path: The file.
        threads: Not used here: torch has one setting a process, which the measuring clock makes.
        options: None are known; DeploymentError where some are given.
    """

    def __init__(self, path: Path, threads: int | None = 1, options: Mapping[str, Any] | None = None) -> None:
        if options:
            raise DeploymentError(f"runtime options {', '.join(options)} are not known to torch: leave them out")
        read(path)
        self.module, text = read_pt2(path)
        self.record = unpack(text, path)
        self.device = torch.device("cpu")
        self.details = {
            "runtime": "torch export", "version": str(torch.__version__), "runtime_threads": None, "options": {},
            **made(self.record),
        }  # fmt: skip

    @torch.inference_mode()
    def __call__(self, photos: np.ndarray | Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, C) float32 probabilities, on the CPU."""
        return self.module(torch.as_tensor(photos).cpu())
