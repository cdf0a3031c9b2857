"""Lightning's searches for batch size and learning rate, made to last: what they find reaches the schedule."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder
from pytorch_lightning.trainer.states import TrainerFn

from litesort.errors import ModelError

KEY = "batch_size"  # in a checkpoint


class FindBatchSize(BatchSizeFinder):
    """Double the batch while it fits, then train with the largest; arguments as Lightning's.

    Lightning leaves the schedule as long as the first batch size made it; here it is built again. A resumed run takes
    the size that was found for it.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._found: int | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._found is not None:
            return
        super().on_fit_start(trainer, pl_module)
        self._found = self.optimal_batch_size
        trainer.strategy.setup_optimizers(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = self._found

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING and checkpoint.get(KEY) is not None:
            self._found = self.optimal_batch_size = checkpoint[KEY]
            setattr(trainer.datamodule, self._batch_arg_name, self._found)  # type: ignore[attr-defined]


class FindLearningRate(LearningRateFinder):
    """Try rising rates on a few batches, then train with the one of the steepest loss; arguments as Lightning's.

    Lightning sets the optimiser's rate but not the schedule's base, which undoes it at the first step; here both are
    built again. A resumed run goes on with its schedule and searches nothing.

    Raises:
        ModelError: At the start of training, if no rate was found.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._resumed = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Not trainer.ckpt_path: the search for a batch size saves and restores a checkpoint of step 0.
        self._resumed = self._resumed or checkpoint["global_step"] > 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._resumed:
            return
        super().on_fit_start(trainer, pl_module)
        if self.optimal_lr is None or self.optimal_lr.suggestion() is None:
            raise ModelError(
                f"callbacks.lr_finder.num_training_steps={self._num_training_steps} gave too few losses to choose "
                "a rate: give more steps or epochs, a smaller callbacks.lr_finder.max_lr, or leave lr_finder out"
            )
        trainer.strategy.setup_optimizers(trainer)
