"""Structured pruning: prune the network before training and, with several steps, between epochs."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, WeightAveraging

from callbacks.checkpoint import RunCheckpoint
from callbacks.finetuning import Finetuning
from deployment.complexity import profile
from deployment.latency.benchmark import Clock, Times, build_clock
from lightning_modules.backbones.backbone import Backbone
from lightning_modules.checkpoint import build_untrained
from lightning_modules.pruning.structured import (
    IMPORTANCE,
    SCOPES,
    find_ratio,
    gather_gradients,
    prune,
    unprunable_layers,
    widths,
)
from litesort.errors import ModelError


class StructuredPruning(pl.Callback):
    """Remove whole channels from the network until it meets a target, and train the smaller network.

    Step i of `steps` prunes to target^(i / steps) of the cost of the original network. The first step comes before
    training, the others at the start of every `interval_epochs`-th epoch. Each later step builds a new optimiser at the
    current position of the schedule, and discards the best epoch so far, which belongs to a larger network. A resumed
    run continues with the next step.

    Args:
        macs: Target share of multiply-accumulates, in (0, 1).
        latency: Target share of the measured time per image on this machine, in (0, 1); replaces `macs`.
        runtime: Runtime of the measured time: a format ("openvino", ...) for exported networks, or "eager" for PyTorch.
        importance: "magnitude", "taylor" or "bn_scale"; see `lightning_modules.pruning.structured.prune`.
        scope: "uniform" or "global".
        round_to: Layers keep a multiple of this number of channels.
        batches: Training batches whose gradients "taylor" sums.
        steps: Number of pruning steps.
        interval_epochs: Epochs between two steps.
        ckpt: Checkpoint of a resumed run, whose network is already pruned; None for a new run.
        clock: Function of the network, the reference network and the image size in px that returns their times. None
            measures them in `runtime`.

    Raises:
        ModelError: A setting is invalid, has no effect, or cannot be met with this network.
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
        interval_epochs: int = 5,
        ckpt: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.key, self.target = _target(macs, latency)
        _check(importance, scope, round_to, batches, steps, interval_epochs)
        self.importance, self.scope, self.round_to = importance, scope, round_to
        self.batches, self.steps, self.interval_epochs = batches, steps, interval_epochs
        self.runtime, self.clock = runtime, clock or build_clock(runtime)
        self._resumes = ckpt is not None  # Lightning reports a resume only after `setup`
        self._done = 0  # completed steps
        self._before = 0  # pruning steps of the network before this run

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage != "fit" or self._resumes:
            return
        last = (self.steps - 1) * self.interval_epochs
        if self.steps > 1 and trainer.world_size > 1:
            raise ModelError(f"prune.steps={self.steps} needs one process: set trainer.devices=1 or prune.steps=1")
        if trainer.max_epochs is not None and last >= trainer.max_epochs > 0:
            raise ModelError(
                f"prune.steps={self.steps} with prune.interval_epochs={self.interval_epochs} needs more than {last} "
                f"epochs, but epochs={trainer.max_epochs}: raise epochs or lower prune.interval_epochs"
            )
        self._before = len(pl_module.net.pruning)
        pl_module.replace_net(self._prune(trainer, pl_module))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._done >= self.steps or trainer.current_epoch < self._done * self.interval_epochs:
            return
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        averages: list[Any] = [c._average_model for c in callbacks if isinstance(c, WeightAveraging)]
        for average in averages:
            pl_module.net.load_state_dict(average.module.net.state_dict())  # prune the validated weights
        pl_module.replace_net(self._prune(trainer, pl_module))
        for average in averages:
            average.module.net = copy.deepcopy(pl_module.net)
            average.module.objective = copy.deepcopy(pl_module.objective)
        _reset_callbacks(trainer, pl_module)
        _rebuild_optimizer(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done, "before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._done, self._before = state_dict["done"], state_dict["before"]

    def _prune(self, trainer: pl.Trainer, pl_module: Any) -> Backbone:
        net, size = pl_module.net, int(pl_module.model_card["preprocessing"]["size"])
        original = build_untrained(net, net.pruning[: self._before]).to(net.mean.device)
        original.to(memory_format=torch.channels_last)
        share = self.target ** ((self._done + 1) / self.steps)
        if self.importance == "taylor":
            gather_gradients(net, _training_batches(trainer), self.batches)
        settings: dict[str, Any] = {"importance": self.importance, "scope": self.scope, "round_to": self.round_to}
        settings["protected"] = unprunable_layers(net, size)
        macs = profile(original, size)["macs"]

        def cost(ratio: float) -> float:
            small = prune(net, size, ratio, **settings)
            if self.key == "macs":
                return profile(small, size)["macs"] / macs
            return self.clock(small.to(memory_format=torch.channels_last), original, size).ratio

        ratio = find_ratio(cost, share, f"prune.{self.key}={self.target}") if trainer.is_global_zero else 0.0
        small = prune(net, size, trainer.strategy.broadcast(ratio), **settings)
        net.zero_grad(set_to_none=True)
        self._done += 1
        if trainer.is_global_zero:
            times = self.clock(small.to(memory_format=torch.channels_last), original, size)
            costs = profile(original, size), profile(small, size)
            print_pruning(net, small, settings["protected"], *costs, times, self.runtime)
        return small


def _training_batches(trainer: pl.Trainer) -> Iterable[Any]:
    """Return training batches of all classes, preprocessed for the network, without augmentation."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return (data.on_after_batch_transfer(batch, 0) for batch in data.loader("train", shuffle=True))


def _rebuild_optimizer(trainer: pl.Trainer) -> None:
    """Build an optimiser for the current parameters at the current position of the schedule."""
    before, schedules = trainer.optimizers, [config.scheduler for config in trainer.lr_scheduler_configs]
    trainer.strategy.setup_optimizers(trainer)
    for old, new in zip(before, trainer.optimizers, strict=True):
        for old_group, group in zip(old.param_groups, new.param_groups, strict=True):
            group.update({key: value for key, value in old_group.items() if key != "params"})
    for schedule, config in zip(schedules, trainer.lr_scheduler_configs, strict=True):
        config.scheduler.load_state_dict(schedule.state_dict())


def _reset_callbacks(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Reset best scores, which belong to the larger network, and freeze the same parts of the new network."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunCheckpoint):
            callback.reset_best()
        elif isinstance(callback, EarlyStopping):
            callback.wait_count = 0
            callback.best_score = torch.tensor(torch.inf if callback.monitor_op == torch.lt else -torch.inf)
        elif isinstance(callback, Finetuning):
            callback.setup(trainer, pl_module, "fit")


def _target(macs: float | None, latency: float | None) -> tuple[str, float]:
    if latency is not None:
        key, value = "latency", latency  # latency replaces the default of macs
    elif macs is not None:
        key, value = "macs", macs
    else:
        raise ModelError("prune=structured has no target: set prune.macs=0.5 or prune.latency=0.5")
    if not 0 < value < 1:
        raise ModelError(f"prune.{key}={value} is invalid: expected the remaining share, between 0 and 1, e.g. 0.5")
    return key, float(value)


def _check(importance: str, scope: str, round_to: int, batches: int, steps: int, interval_epochs: int) -> None:
    if importance not in IMPORTANCE:
        raise ModelError(f"prune.importance={importance} is unknown: expected one of {', '.join(IMPORTANCE)}")
    if scope not in SCOPES:
        raise ModelError(f"prune.scope={scope} is unknown: expected one of {', '.join(SCOPES)}")
    counts = {"round_to": round_to, "batches": batches, "steps": steps, "interval_epochs": interval_epochs}
    for key, value in counts.items():
        if value < 1:
            raise ModelError(f"prune.{key}={value} is invalid: expected an integer of at least 1")


def print_pruning(
    net: Backbone,
    small: Backbone,
    protected: Mapping[str, str],
    before: Mapping[str, int],
    after: Mapping[str, int],
    times: Times,
    runtime: str,
) -> None:
    """Print a table of pruned layers and the cost of the whole network.

    Args:
        net: Network before this step.
        small: Network after this step.
        protected: Unprunable layers and the reasons.
        before: `params` and `macs` of the network before any pruning of the run.
        after: `params` and `macs` of `small`.
        times: Times per image of `small` and of the unpruned network, measured in turn.
        runtime: Runtime of the times.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"pruned {net.name}: output channels", title_justify="left")
    for heading in ("layer", "before", "after", "kept"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    old, new = widths(net), widths(small)
    for name, channels in old.items():
        if new[name] != channels:
            table.add_row(name, str(channels), str(new[name]), f"{new[name] / channels:.0%}")
    console = Console()
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for name, reason in protected.items():
        reasons.setdefault(reason, []).append(name)
    reasons["too few channels at this ratio"] = [n for n in old if new[n] == old[n] and n not in protected]
    for reason, names in reasons.items():
        if names:
            rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
            console.print(f"kept ({reason}): {', '.join(names[:4])}{rest}", highlight=False)
    for key in ("macs", "params"):
        console.print(f"{key}: {before[key]:,} -> {after[key]:,} ({after[key] / before[key]:.1%})", highlight=False)
    faster = "" if times.ratio < 0.98 else ": NOT FASTER here, despite fewer operations"
    took = f"{times.reference:.2f} ms -> {times.net:.2f} ms ({times.ratio:.2f} of the unpruned)"
    console.print(f"latency in {runtime}, one image: {took}{faster}", highlight=False)
