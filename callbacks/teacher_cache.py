"""Cache of teacher outputs: augmented views repeat, so that the teacher runs once per view."""

from typing import Any

import pytorch_lightning as pl

from lightning_modules.objectives.distillation import Distillation
from lightning_modules.objectives.teacher_cache import TeacherCache
from litesort.errors import ModelError


class CacheTeacher(pl.Callback):
    """Repeat the batches of the first `epochs` epochs and reuse the teacher outputs of the first round.

    Epoch i has the batches, augmentation and mixing of epoch i modulo `epochs`. The teacher runs in the first round
    and in the first validation only. Later epochs cost as much as without a teacher. A resumed run computes the outputs
    again and gets equal values. Source: FKD (Shen and Xing 2022), which stores teacher outputs of several crops.

    Args:
        epochs: Epochs per round, at least 1. A longer round varies the images more and costs more.
        mirror: Flip every second round left to right, with the teacher's feature maps, if the augmentation flips. One
            teacher pass then serves two views. Vertical flips reduced the agreement with the teacher.
        max_gb: Device memory for the outputs in GB. The teacher runs again for outputs that do not fit.

    Raises:
        ModelError: A value is out of range, or the objective has no teacher.
    """

    def __init__(self, epochs: int = 12, mirror: bool = True, max_gb: float = 4.0) -> None:
        if epochs < 1:
            raise ModelError(f"callbacks.teacher_cache.epochs={epochs} is invalid: expected an integer of at least 1")
        if not max_gb > 0:
            raise ModelError(f"callbacks.teacher_cache.max_gb={max_gb} is invalid: expected a number above 0")
        self.epochs, self.mirror, self.max_gb = epochs, mirror, max_gb
        self._teacher_cache: TeacherCache | None = None
        self._mirrors = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        objective: Any = pl_module.objective
        if not isinstance(objective, Distillation):
            raise ModelError(
                "callbacks.teacher_cache needs an objective with a teacher: set objective=distill_logit, "
                "distill_decoupled, distill_dist or distill_feature, or remove teacher_cache"
            )
        objective.teacher_cache = self._teacher_cache = TeacherCache(self.max_gb * 1e9)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.repeat_after = self.epochs
        self._mirrors = self.mirror and getattr(data.augment, "flips", False)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        round_, epoch = divmod(trainer.current_epoch, self.epochs)
        mirrored = self._mirrors and round_ % 2 == 1
        if mirrored:
            batch.images.copy_(batch.images.flip(3))
        self._set_key(("train", epoch, batch_idx), mirrored)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._set_key(("val", batch_idx))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        objective: Any = pl_module.objective
        objective.teacher_cache = self._teacher_cache = None  # frees the memory
        trainer.datamodule.repeat_after = None  # type: ignore[attr-defined]

    def _set_key(self, key: tuple[Any, ...], mirrored: bool = False) -> None:
        if self._teacher_cache is not None:
            self._teacher_cache.key, self._teacher_cache.mirrored = key, mirrored
