"""A teacher that is asked once about each view of a photo, not in every epoch."""

from typing import Any

import pytorch_lightning as pl

from lightning_modules.objectives.distillation import Distillation
from lightning_modules.objectives.teacher_cache import TeacherCache
from litesort.errors import ModelError


class CacheTeacher(pl.Callback):
    """Let the epochs come again, as they were augmented and mixed, and remember what the teacher made of them.

    Epoch i shows the batches of epoch i modulo `epochs`. From the second round on, and in all validations but the
    first, the teacher is not run, so that an epoch costs what it costs without one (Shen and Xing 2022, FKD, who keep
    answers to several crops of a photo). A resumed run asks once more, and gets the same. Nothing is asked twice in one
    round, so of photos that grow (progressive_resizing) each size is asked about.

    Args:
        epochs: Length of a round, 1 or more; more vary the photos more and cost more.
        mirror: Flip every second round left to right, and the teacher's maps with it, where the augmentation does: two
            views for one question. Upside down, students drifted from their teacher: docs/lab/experiments.md.
        max_gb: Memory of the device for it; what does not fit in is asked for each time.

    Raises:
        ModelError: A value is out of range, or the objective has no teacher.
    """

    def __init__(self, epochs: int = 12, mirror: bool = True, max_gb: float = 4.0) -> None:
        if epochs < 1:
            raise ModelError(f"callbacks.teacher_cache.epochs={epochs} is out of range: give 1 or more")
        if not max_gb > 0:
            raise ModelError(
                f"callbacks.teacher_cache.max_gb={max_gb} keeps nothing: give more than 0, or leave it out"
            )
        self.epochs, self.mirror, self.max_gb = epochs, mirror, max_gb
        self._teacher_cache: TeacherCache | None = None
        self._mirrors = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        objective: Any = pl_module.objective
        if not isinstance(objective, Distillation):
            raise ModelError(
                "callbacks=remember does nothing without a teacher: choose objective=distill_logit, distill_decoupled, "
                "distill_dist or distill_feature, or leave remember out"
            )
        objective.teacher_cache = self._teacher_cache = TeacherCache(self.max_gb * 1e9)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.repeat_after = self.epochs
        self._mirrors = self.mirror and data.augment is not None and data.augment.hflip > 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        turn, epoch = divmod(trainer.current_epoch, self.epochs)
        mirrored = self._mirrors and turn % 2 == 1
        if mirrored:
            batch.images.copy_(batch.images.flip(3))
        self._expect(("train", epoch, batch_idx), mirrored)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._expect(("val", batch_idx))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        objective: Any = pl_module.objective
        objective.teacher_cache = self._teacher_cache = None  # gives the memory back
        trainer.datamodule.repeat_after = None  # type: ignore[attr-defined]

    def _expect(self, place: tuple[Any, ...], mirrored: bool = False) -> None:
        if self._teacher_cache is not None:
            self._teacher_cache.place, self._teacher_cache.mirrored = place, mirrored
