"""WasteDataModule: any source of photos becomes batches on the device."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from torch import nn

from datamodules.sources.base import Source


class WasteDataModule(pl.LightningDataModule):
    """Prepare, split, load and, on the device, augment the photos of one source."""

    def __init__(
        self,
        source: Source,
        size: int = 128,
        resize: Literal["pad", "squash", "crop"] = "pad",
        batch_size: int = 32,
        eval_batch_size: int = 64,
        sampler: Callable[..., Any] | None = None,
        augment: nn.Module | None = None,
        num_workers: int | Literal["auto"] = "auto",
        cache: Literal["disk", "memory", "off"] = "disk",
        cache_dir: str | Path = "~/.cache/litesort",
        cache_budget_gb: float = 20.0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        fold: int | None = None,
        folds: int | None = None,
        group_by: str | None = None,
        group_block: int | None = None,
        seed: int = 0,
        on_error: Literal["quarantine", "raise"] = "quarantine",
        quarantine_dir: str | Path | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
