"""Lightning's batch size finder and learning rate finder; the results also reach the schedule and a resumed run."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder
from pytorch_lightning.trainer.states import TrainerFn

from litesort.errors import ModelError

KEY = "batch_size"  # key in a checkpoint


class FindBatchSize(BatchSizeFinder):
    """Double the batch size while it fits into memory, then train with the largest one.

    Arguments are those of Lightning.

    Lightning keeps the schedule of the first batch size; this class rebuilds it. A resumed run uses the stored size.
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
    """Try increasing learning rates on a few batches, then train with the rate at which the loss falls fastest.

    Arguments are those of Lightning.

    Lightning sets the rate of the optimiser only, and the schedule overwrites it at the first step. This class rebuilds
    both. A resumed run continues its schedule without a search.

    Raises:
        ModelError: At the start of training, if no rate was found.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._resumed = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # trainer.ckpt_path does not show a resume: the batch size finder restores a checkpoint of step 0.
        self._resumed = self._resumed or checkpoint["global_step"] > 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._resumed:
            return
        super().on_fit_start(trainer, pl_module)
        if self.optimal_lr is None or self.optimal_lr.suggestion() is None:
            raise ModelError(
                f"callbacks.lr_finder.num_training_steps={self._num_training_steps} gave too few losses to choose "
                "a rate: raise it or epochs, lower callbacks.lr_finder.max_lr, or remove lr_finder"
            )
        trainer.strategy.setup_optimizers(trainer)
