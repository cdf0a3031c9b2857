"""Optuna pruning: report each epoch of a trial to its study and stop a trial below the median."""

import json
from typing import Any

import pytorch_lightning as pl

from callbacks.checkpoint import was_validated


class TrialPruned(Exception):
    """The search stopped this trial. The leaderboard shows it as pruned, not as failed."""


class OptunaPruning(pl.Callback):
    """Report `monitor` of each epoch to the Optuna study of this trial. Without a study, the callback does nothing.

    Args:
        trial: JSON of the study's `storage` and `name`, the trial's `number`, and `startup_trials` and `warmup_epochs`
            if trials may be pruned. None: the run is not part of a study.
        monitor: Logged metric, higher is better.

    Raises:
        TrialPruned: After an epoch whose best value so far is below the median of the other trials at that epoch.
    """

    def __init__(self, trial: str | None = None, monitor: str = "val/f1_macro") -> None:
        self.trial: dict[str, Any] = json.loads(trial) if trial else {}
        self.monitor = monitor

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "startup_trials" not in self.trial or self.monitor not in trainer.callback_metrics:
            return
        if not was_validated(trainer):
            return
        reason = None
        if trainer.is_global_zero:
            reason = self._report(float(trainer.callback_metrics[self.monitor]), trainer.current_epoch)
        if reason := trainer.strategy.broadcast(reason):  # all processes of a run stop together
            raise TrialPruned(reason)

    def _report(self, value: float, epoch: int) -> str | None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # a resumed run reports its last epoch again
        pruner = optuna.pruners.MedianPruner(self.trial["startup_trials"], self.trial["warmup_epochs"])
        study = optuna.load_study(study_name=self.trial["name"], storage=self.trial["storage"], pruner=pruner)
        own = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == self.trial["number"])
        trial = optuna.trial.Trial(study, own._trial_id)
        trial.report(value, epoch)
        if not trial.should_prune():
            return None
        reason = f"pruned after {epoch + 1} epochs: {self.monitor} {value:.4f} is below the other trials' median"
        trial.set_user_attr("pruned", reason)
        return reason
