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


def configure(
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
    """Build the optimiser of a backbone and the schedule that steps with it, once a training step.

    name: "adamw" (betas) or "sgd" (momentum, Nesterov); lr: learning rate of the head and, without layer_decay, of
    all; weight_decay: not applied to norms, biases and what timm's `no_weight_decay` names; layer_decay in (0, 1):
    each layer away from the head learns that much slower (BEiT), None is off; warmup_epochs: linear warm-up, at most
    half the run; min_lr: where the schedule ends; extra_parameters: of the objective, at full lr. fused: torch's
    fused AdamW where the device has it; fused SGD fails where some parameters get their first gradient later. Frozen
    parameters are left out. ModelError for a setting out of range.
    """
    _check(name, lr, weight_decay, layer_decay, warmup_epochs, min_lr, schedule)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ModelError(f"optimizer.betas={list(betas)} must be two numbers from 0 to below 1, e.g. [0.9, 0.999]")
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
    """Share of the full learning rate at a step: linear warm-up, then cosine (Loshchilov & Hutter 2017) or another.

    step: 0 for the first; total_steps, warmup_steps: optimiser steps; floor in [0, 1]: the share
    that the schedule reaches after the last step, so that the last step still learns.

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
        line = "optimizer.warmup_epochs=%s is over half of the run: warming up for %d of %d steps"
        log.info(line, epochs, half, total_steps)
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
        raise ModelError(f"optimizer.layer_decay={layer_decay} does nothing: this network has one layer; give null")
    return groups


def _check(
    name: str, lr: float, weight_decay: float, layer_decay: float | None, warmup: float, min_lr: float, schedule: str
) -> None:
    if name not in ("adamw", "sgd"):
        raise ModelError(f"optimizer.name={name} is unknown: give adamw or sgd")
    if schedule not in SCHEDULES:
        raise ModelError(f"optimizer.schedule={schedule} is unknown: give one of {', '.join(SCHEDULES)}")
    if not (lr > 0 and math.isfinite(lr)):
        raise ModelError(f"optimizer.lr={lr} must be a positive number, e.g. optimizer.lr=0.001")
    if weight_decay < 0:
        raise ModelError(f"optimizer.weight_decay={weight_decay} must not be negative: 0 switches it off")
    if layer_decay is not None and not 0 < layer_decay < 1:
        raise ModelError(f"optimizer.layer_decay={layer_decay} must lie between 0 and 1: null switches it off")
    if warmup < 0:
        raise ModelError(f"optimizer.warmup_epochs={warmup} must not be negative: 0 switches it off")
    if not 0 <= min_lr <= lr:
        raise ModelError(f"optimizer.min_lr={min_lr} must lie between 0 and optimizer.lr={lr}")
    if schedule == "constant" and min_lr > 0:
        raise ModelError(f"optimizer.min_lr={min_lr} does nothing with optimizer.schedule=constant: give 0")
