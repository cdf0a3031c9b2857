"""Progressive resizing: small training images first, for more epochs in the same time."""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle

from litesort.errors import ModelError


class ProgressiveResizing(pl.Callback):
    """Shrink training images on the device: small at first, then growing, full size in the last epochs.

    The cost of a step grows with the square of the side. Validation, test, exported files, augmentation and a teacher
    use the full size. The side depends on the epoch only, so a resumed run is exact.

    Args:
        initial_scale: Share of the full side in the first epochs, above 0 and below 1.
        delay_fraction: Share of the epochs before the side grows.
        finetune_fraction: Share of the epochs, at the end, at full size; in between the side grows linearly.
        size_increment: The side is rounded down to a multiple of this, in px; 32 suits networks of stride 32.

    Raises:
        ModelError: A value is out of range, the two fractions are above 1 together, or the side is 0 after rounding.

    Source: progressive resizing (fastai, 2018; MosaicML Composer); "progressive learning" (Tan & Le 2021).
    """

    def __init__(
        self,
        initial_scale: float = 0.5,
        delay_fraction: float = 0.4,
        finetune_fraction: float = 0.2,
        size_increment: int = 32,
    ) -> None:
        name = "callbacks.progressive_resizing"
        if not 0 < initial_scale < 1:
            raise ModelError(
                f"{name}.initial_scale={initial_scale} is invalid: expected a number between 0 and 1, e.g. 0.5"
            )
        if min(delay_fraction, finetune_fraction) < 0 or delay_fraction + finetune_fraction > 1:
            shares = f"{name}: delay_fraction={delay_fraction} and finetune_fraction={finetune_fraction}"
            raise ModelError(
                f"{shares} are invalid: expected shares of the epochs whose sum is at most 1, e.g. 0.4 and 0.2"
            )
        if size_increment < 1:
            raise ModelError(f"{name}.size_increment={size_increment} is invalid: expected at least 1 px, e.g. 32")
        self.initial_scale = initial_scale
        self.delay_fraction = delay_fraction
        self.finetune_fraction = finetune_fraction
        self.size_increment = size_increment
        self._hook: RemovableHandle | None = None

    def scale(self, epoch: int, epochs: int) -> float:
        """Return the side of the images as a share of the full side.

        Args:
            epoch: Epoch, counted from 0.
            epochs: Number of epochs of the run.
        """
        start, end = self.delay_fraction * epochs, (1 - self.finetune_fraction) * epochs
        if epoch >= end:
            return 1.0
        grown = (epoch - start) / (end - start) if epoch > start else 0.0
        return self.initial_scale + (1 - self.initial_scale) * grown

    def side(self, full: int, epoch: int, epochs: int) -> int:
        """Return the side of the images in px.

        Args:
            full: Full side in px.
            epoch: Epoch, counted from 0.
            epochs: Number of epochs of the run.

        Raises:
            ModelError: The side is 0 after rounding.
        """
        scale = self.scale(epoch, epochs)
        side = full if scale == 1 else int(scale * full + 1e-6) // self.size_increment * self.size_increment
        if side < 1:
            raise ModelError(
                f"callbacks.progressive_resizing.initial_scale={self.initial_scale} with "
                f"size_increment={self.size_increment} rounds {full} px down to 0 px: raise initial_scale or lower "
                "size_increment"
            )
        return side

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._remove()  # pruning may have replaced the network
        epoch, epochs = trainer.current_epoch, trainer.max_epochs or -1
        if epochs < 1:
            raise ModelError("callbacks.progressive_resizing needs a number of epochs: set epochs")

        def shrink(module: nn.Module, args: tuple[Any, ...]) -> torch.Tensor | None:
            images = args[0]
            side = self.side(images.shape[-1], epoch, epochs)
            if not module.training or side == images.shape[-1]:
                return None
            small = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
            channels_last = images.is_contiguous(memory_format=torch.channels_last)
            return small.contiguous(memory_format=torch.channels_last) if channels_last else small

        net: Any = pl_module.net
        self._hook = net.register_forward_pre_hook(shrink)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._remove()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
