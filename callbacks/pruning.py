"""Prune the network before it trains, and again between epochs where that is asked for."""

import copy
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, WeightAveraging

from callbacks.checkpoint import RunCheckpoint
from callbacks.finetuning import Finetuning
from callbacks.pruning_report import print_pruning
from deployment.compare import Clock, clock_in
from deployment.profile import profile
from lightning_modules import ModelError
from lightning_modules.backbones import Backbone
from lightning_modules.checkpoint import blank_net
from lightning_modules.pruning import IMPORTANCE, SCOPES, find_ratio, gather_gradients, pruned, untouchable


class StructuredPruning(pl.Callback):
    """Take whole channels out of the network until a target is met, and let the run train what is left.

    Step i of `steps` goes to target^(i / steps) of what the network was at the start: the first before training, the
    others at the start of every `every`-th epoch, each with a fresh optimiser on the schedule as it is. Best epochs
    from before a step are forgotten, since they are of a larger network. A resumed run knows which steps were done.

    Args:
        macs: Share of the multiply-accumulates that stays, in (0, 1).
        latency: Instead: share of the measured time of one photo, on this machine.
        runtime: What that time is measured in: a format ("openvino", ...), of the exported nets; or "eager".
        importance: "magnitude", "taylor" or "bn_scale"; see `lightning_modules.pruning.pruned`.
        scope: "uniform" or "global".
        round_to: Layers keep a multiple of this many channels.
        batches: Training batches whose gradients "taylor" sums.
        steps: How many prunings.
        every: Epochs between two of them.
        ckpt: The checkpoint that the run resumes from, if it does: its network has been pruned already.
        clock: Takes a net, what it is compared to, and the photo's side; returns their times. None: measured in
            `runtime`.

    Raises:
        ModelError: A setting that is out of range, does nothing, or asks for what this network cannot give.
    """

    def __init__(
        self,
        macs: float | None = 0.5,
        latency: float | None = None,
        runtime: str = "openvino",
        importance: str = "magnitude",
        scope: str = "uniform",
        round_to: int = 8,
        batches: int = 16,
        steps: int = 1,
        every: int = 5,
        ckpt: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.key, self.target = _target(macs, latency)
        _check(importance, scope, round_to, batches, steps, every)
        self.importance, self.scope, self.round_to = importance, scope, round_to
        self.batches, self.steps, self.every = batches, steps, every
        self.runtime, self.clock = runtime, clock or clock_in(runtime)
        self._resumes = ckpt is not None  # Lightning's own word for it comes after `setup`
        self._done = 0  # steps
        self._before = 0  # length of the history that the network came with

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage != "fit" or self._resumes:
            return
        last = (self.steps - 1) * self.every
        if self.steps > 1 and trainer.world_size > 1:
            raise ModelError(f"prune.steps={self.steps} needs one process: give trainer.devices=1 or prune.steps=1")
        if trainer.max_epochs is not None and last >= trainer.max_epochs > 0:
            raise ModelError(
                f"prune.steps={self.steps} every {self.every} epochs end after {last} of epochs={trainer.max_epochs}: "
                "give more epochs, or a smaller prune.every"
            )
        self._before = len(pl_module.net.pruning)
        pl_module.replace_net(self._prune(trainer, pl_module))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._done >= self.steps or trainer.current_epoch < self._done * self.every:
            return
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        averages: list[Any] = [c._average_model for c in callbacks if isinstance(c, WeightAveraging)]
        for average in averages:
            pl_module.net.load_state_dict(average.module.net.state_dict())  # what was validated is what is pruned
        pl_module.replace_net(self._prune(trainer, pl_module))
        for average in averages:
            average.module.net = copy.deepcopy(pl_module.net)
            average.module.objective = copy.deepcopy(pl_module.objective)
        _begin_anew(trainer, pl_module)
        _rebuild_optimizer(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done, "before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._done, self._before = state_dict["done"], state_dict["before"]

    def _prune(self, trainer: pl.Trainer, pl_module: Any) -> Backbone:
        net, size = pl_module.net, int(pl_module.state_record["preprocessing"]["size"])
        original = blank_net(net, net.pruning[: self._before]).to(net.mean.device)
        original.to(memory_format=torch.channels_last)
        share = self.target ** ((self._done + 1) / self.steps)
        if self.importance == "taylor":
            gather_gradients(net, _photos(trainer), self.batches)
        settings: dict[str, Any] = {"importance": self.importance, "scope": self.scope, "round_to": self.round_to}
        settings["protected"] = untouchable(net, size)
        macs = profile(original, size)["macs"]

        def cost(ratio: float) -> float:
            small = pruned(net, size, ratio, **settings)
            if self.key == "macs":
                return profile(small, size)["macs"] / macs
            return self.clock(small.to(memory_format=torch.channels_last), original, size).ratio

        ratio = find_ratio(cost, share, f"prune.{self.key}={self.target}") if trainer.is_global_zero else 0.0
        small = pruned(net, size, trainer.strategy.broadcast(ratio), **settings)
        net.zero_grad(set_to_none=True)
        self._done += 1
        if trainer.is_global_zero:
            times = self.clock(small.to(memory_format=torch.channels_last), original, size)
            costs = profile(original, size), profile(small, size)
            print_pruning(net, small, settings["protected"], *costs, times, self.runtime)
        return small


def _photos(trainer: pl.Trainer) -> Iterable[Any]:
    """Training batches of all classes as the network gets them, without augmentation."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return (data.on_after_batch_transfer(batch, 0) for batch in data.loader("train", mixed=True))


def _rebuild_optimizer(trainer: pl.Trainer) -> None:
    """An optimiser for the parameters that are there now, at the place of the schedule where the last one was."""
    before, schedules = trainer.optimizers, [config.scheduler for config in trainer.lr_scheduler_configs]
    trainer.strategy.setup_optimizers(trainer)
    for old, new in zip(before, trainer.optimizers, strict=True):
        for was, group in zip(old.param_groups, new.param_groups, strict=True):
            group.update({key: value for key, value in was.items() if key != "params"})
    for schedule, config in zip(schedules, trainer.lr_scheduler_configs, strict=True):
        config.scheduler.load_state_dict(schedule.state_dict())


def _begin_anew(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Let callbacks forget the larger network, and freeze what they froze of it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunCheckpoint):
            callback.forget_best()
        elif isinstance(callback, EarlyStopping):
            callback.wait_count = 0
            callback.best_score = torch.tensor(torch.inf if callback.monitor_op == torch.lt else -torch.inf)
        elif isinstance(callback, Finetuning):
            callback.setup(trainer, pl_module, "fit")


def _target(macs: float | None, latency: float | None) -> tuple[str, float]:
    if latency is not None:
        key, value = "latency", latency  # prune.latency=0.5 is enough to say
    elif macs is not None:
        key, value = "macs", macs
    else:
        raise ModelError("prune=structured has no target: give prune.macs=0.5 or prune.latency=0.5")
    if not 0 < value < 1:
        raise ModelError(f"prune.{key}={value} is out of range: give the share that stays, between 0 and 1, e.g. 0.5")
    return key, float(value)


def _check(importance: str, scope: str, round_to: int, batches: int, steps: int, every: int) -> None:
    if importance not in IMPORTANCE:
        raise ModelError(f"prune.importance={importance} is unknown: give one of {', '.join(IMPORTANCE)}")
    if scope not in SCOPES:
        raise ModelError(f"prune.scope={scope} is unknown: give one of {', '.join(SCOPES)}")
    for key, value in {"round_to": round_to, "batches": batches, "steps": steps, "every": every}.items():
        if value < 1:
            raise ModelError(f"prune.{key}={value} is out of range: give 1 or more")
