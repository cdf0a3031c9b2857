"""Optimiser, parameter groups and learning-rate schedule."""

import logging
import math
from collections.abc import Iterable, Sequence

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules.backbones.backbone import Backbone
from litesort.errors import ModelError

log = logging.getLogger(__name__)

SCHEDULES = ("cosine", "linear", "constant")


def configure_optimizer(
    net: Backbone,
    *,
    name: str = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    betas: Sequence[float] = (0.9, 0.999),
    momentum: float = 0.9,
    layer_decay: float | None = None,
    warmup_epochs: float = 1.0,
    min_lr: float = 0.0,
    schedule: str = "cosine",
    total_steps: int,
    steps_per_epoch: int,
    fused: bool = True,
    extra_parameters: Iterable[nn.Parameter] = (),
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Build the optimiser of a backbone and its learning-rate schedule, which steps once per training step.

    Frozen parameters are excluded.

    Args:
        net: Backbone to train.
        name: "adamw" (Loshchilov & Hutter 2019) or "sgd" (with Nesterov momentum).
        lr: Highest learning rate, above 0. With `layer_decay` it is the learning rate of the head.
        weight_decay: 0 or more. It is not applied to norms, biases and the names in timm's `no_weight_decay`.
        betas: AdamW only: decay of the two moments, in [0, 1).
        momentum: SGD only: Nesterov momentum, 0 or more; 0 is off.
        layer_decay: Factor of the learning rate per layer away from the head, in (0, 1) (BEiT, Bao et al. 2022); None
            is off.
        warmup_epochs: Length of the linear warm-up, limited to half of the run.
        min_lr: Learning rate at the end of the schedule, from 0 to `lr`.
        schedule: "cosine", "linear" or "constant".
        total_steps: Optimiser steps of the run.
        steps_per_epoch: Optimiser steps of an epoch.
        fused: Use the fused AdamW of torch if the device supports it. Fused SGD is not used: it fails if a parameter
            gets its first gradient in a later step.
        extra_parameters: Parameters of the objective. They have the full learning rate and no weight decay.

    Returns:
        Optimiser and schedule.

    Raises:
        ModelError: A setting is out of range.
    """
    _check(name, lr, weight_decay, layer_decay, warmup_epochs, min_lr, schedule)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ModelError(
            f"optimizer.betas={list(betas)} is invalid: give two numbers from 0 to below 1, e.g. [0.9,0.999]"
        )
    if not momentum >= 0:
        raise ModelError(f"optimizer.momentum={momentum} is invalid: give 0 (off) or more, e.g. 0.9")
    groups = _groups(net.net, weight_decay, layer_decay)
    extra = [p for p in extra_parameters if p.requires_grad]
    if extra:
        groups.append({"params": extra, "weight_decay": 0.0})
    for group in groups:
        group["lr"] = lr * group.pop("lr_scale", 1.0)
    device_types = {p.device.type for group in groups for p in group["params"]}
    use_fused = True if fused and device_types <= {"cuda", "cpu"} else None
    optimizer: torch.optim.Optimizer
    if name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=use_fused)
    else:
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    warmup_steps = _warmup_steps(warmup_epochs, steps_per_epoch, total_steps)
    floor = min_lr / lr
    return optimizer, LambdaLR(optimizer, lambda step: lr_factor(step, total_steps, warmup_steps, floor, schedule))


def lr_factor(step: int, total_steps: int, warmup_steps: int, floor: float, schedule: str = "cosine") -> float:
    """Compute the learning-rate factor of a step: linear warm-up, then cosine decay (Loshchilov & Hutter 2017).

    Args:
        step: Optimiser step, from 0.
        total_steps: Optimiser steps of the run.
        warmup_steps: Optimiser steps of the warm-up.
        floor: Factor after the last step, in [0, 1]. The last step itself has a larger factor.
        schedule: "cosine", "linear" or "constant".

    Returns:
        Factor in [0, 1].

    >>> [round(lr_factor(step, total_steps=8, warmup_steps=2, floor=0.0), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    shape = (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1 - done
    return floor + (1 - floor) * shape


def _warmup_steps(epochs: float, steps_per_epoch: int, total_steps: int) -> int:
    steps, half = round(epochs * steps_per_epoch), total_steps // 2
    if steps > half:
        log.info(
            "optimizer.warmup_epochs=%s is over half of the run: warming up for %d of %d steps",
            *(epochs, half, total_steps),
        )
    return min(steps, half)


def _groups(net: nn.Module, weight_decay: float, layer_decay: float | None) -> list[dict]:
    skip = getattr(net, "no_weight_decay", None)
    no_decay = tuple(skip()) if callable(skip) else ()
    if layer_decay is None:
        return param_groups_weight_decay(net, weight_decay=weight_decay, no_weight_decay_list=no_decay)
    groups = param_groups_layer_decay(
        net, weight_decay=weight_decay, no_weight_decay_list=no_decay, layer_decay=layer_decay
    )
    if len({group["lr_scale"] for group in groups}) == 1:
        raise ModelError(f"optimizer.layer_decay={layer_decay} has no effect: this network has one layer; give null")
    return groups


def _check(
    name: str, lr: float, weight_decay: float, layer_decay: float | None, warmup: float, min_lr: float, schedule: str
) -> None:
    if name not in ("adamw", "sgd"):
        raise ModelError(f"optimizer.name={name} is unknown: give adamw or sgd")
    if schedule not in SCHEDULES:
        raise ModelError(f"optimizer.schedule={schedule} is unknown: give one of {', '.join(SCHEDULES)}")
    if not (lr > 0 and math.isfinite(lr)):
        raise ModelError(f"optimizer.lr={lr} is invalid: give a positive number, e.g. optimizer.lr=0.001")
    if not weight_decay >= 0:
        raise ModelError(f"optimizer.weight_decay={weight_decay} is invalid: give 0 (off) or more")
    if layer_decay is not None and not 0 < layer_decay < 1:
        raise ModelError(
            f"optimizer.layer_decay={layer_decay} is invalid: give a number between 0 and 1, or null (off)"
        )
    if warmup < 0:
        raise ModelError(f"optimizer.warmup_epochs={warmup} is invalid: give 0 (off) or more")
    if not 0 <= min_lr <= lr:
        raise ModelError(f"optimizer.min_lr={min_lr} is invalid: give a number from 0 to optimizer.lr={lr}")
    if schedule == "constant" and min_lr > 0:
        raise ModelError(f"optimizer.min_lr={min_lr} has no effect with optimizer.schedule=constant: give 0")
