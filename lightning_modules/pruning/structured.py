"""Structured pruning: remove whole channels. The smaller network is faster in any runtime."""

import copy
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.backbones.backbone import Backbone
from lightning_modules.pruning.replay import structure_diff
from litesort.errors import ModelError

IMPORTANCE = ("magnitude", "taylor", "bn_scale")
SCOPES = ("uniform", "global")
MAX_RATIO = 0.95  # largest fraction of the channels of a layer that is removed


def prune(
    net: Backbone,
    size: int,
    ratio: float,
    *,
    importance: str = "magnitude",
    scope: str = "uniform",
    round_to: int = 8,
    protected: Mapping[str, str] | None = None,
) -> Backbone:
    """Copy a network without its least important channels.

    The dependency graph of Torch-Pruning (Fang et al. 2023) finds the channels that must be removed together.

    Args:
        net: Backbone. It is not changed.
        size: Side of the input images in px.
        ratio: Fraction of the channels to remove, in [0, 1).
        importance: "magnitude" of the weights, "taylor" (Molchanov et al. 2019; needs the gradients of
            `gather_gradients`) or "bn_scale" (Liu et al. 2017).
        scope: "uniform" removes `ratio` of each layer; "global" removes `ratio` of all channels together.
        round_to: Layers keep a multiple of this number of channels.
        protected: Result of `unprunable_layers`; None computes it.

    Returns:
        The copy in evaluation mode, with one more step in `pruning`.

    Raises:
        ModelError: Torch-Pruning is not installed, or the network has no BatchNorm for "bn_scale".
    """
    protected = unprunable_layers(net, size) if protected is None else protected
    small = copy.deepcopy(net).eval().requires_grad_(True)
    for module in small.modules():
        module._forward_hooks.clear()  # feature hooks belong to the original network
        module._forward_pre_hooks.clear()  # the hook of progressive resizing would resize twice
    for old, new in zip(net.parameters(), small.parameters(), strict=True):
        new.grad = None if old.grad is None else old.grad.clone()
    heads = {module.qkv: module.num_heads for module in _attentions(small)}
    scores, pruner_type = _importance(small, importance), _pruner_type()
    with _quiet():
        pruner = pruner_type(
            small.net, _blank_image(small, size), scores, global_pruning=scope == "global", pruning_ratio=ratio,
            max_pruning_ratio=MAX_RATIO, round_to=round_to,
            ignored_layers=[small.net.get_submodule(name) for name in protected],
            num_heads=heads, in_channel_groups={}, out_channel_groups={},
        )  # fmt: skip
        pruner.step()
    for module in _attentions(small):
        module.head_dim = module.qkv.out_features // (3 * module.num_heads)
        if hasattr(module, "attn_dim"):
            module.attn_dim = module.head_dim * module.num_heads
    small.zero_grad(set_to_none=True)
    with torch.no_grad():
        small(_blank_image(small, size))  # layers that do not fit fail here, not in the middle of an epoch
    small.pruning = [*net.pruning, structure_diff(net.net, small.net)]
    return small


def find_ratio(relative_cost: Callable[[float], float], target: float, setting: str, trials: int = 7) -> float:
    """Find the smallest pruning ratio whose relative cost is at most the target, by bisection.

    Args:
        relative_cost: Maps a ratio to the cost of the pruned network, relative to the unpruned one.
        target: Relative cost, in (0, 1).
        setting: Config key and value of the target, for the error message.
        trials: Number of bisection steps.

    Returns:
        A ratio for which `relative_cost` was evaluated.

    Raises:
        ModelError: The target is not reached at the largest ratio.
    """
    lowest_cost, low, high = 1.0, 0.0, 0.0
    # Smaller ratios first: the largest ratio skips layers in which no channel would remain, and can cost more.
    for high in (0.5, 0.7, MAX_RATIO):
        if (cost := relative_cost(high)) <= target:
            break
        lowest_cost, low = min(lowest_cost, cost), high
    else:
        raise ModelError(
            f"{setting} is out of reach: at least {lowest_cost:.2f} of the cost remains; give a larger target"
        )
    for _ in range(trials):
        middle = (low + high) / 2
        low, high = (low, middle) if relative_cost(middle) <= target else (middle, high)
    return high


def unprunable_layers(net: Backbone, size: int) -> dict[str, str]:
    """Find the layers whose channels cannot be pruned.

    Args:
        net: Backbone. It is not changed.
        size: Side of the input images in px.

    Returns:
        Reason by layer name: convolutions and linear layers inside `net.net`.
    """
    tp = _torch_pruning()
    stem = next((name for name, module in net.net.named_modules() if isinstance(module, nn.Conv2d)), None)
    reasons = dict.fromkeys(net.head_names, "head")
    if stem is not None:
        reasons.setdefault(stem, "stem")
    traced = copy.deepcopy(net.net).requires_grad_(True).eval()  # tracing needs gradients in all parameters
    names = {module: name for name, module in traced.named_modules()}
    with _quiet():
        graph = tp.DependencyGraph().build_dependency(traced, _blank_image(net, size))
    fixed = dict(reasons)
    for group in graph.get_all_groups(ignored_layers=[], root_module_types=[nn.Conv2d, nn.Linear]):
        touched = [(dep.target.module, graph.is_out_channel_pruning_fn(dep.handler)) for dep, _ in group]
        layers = [names[m] for m, out in touched if out and isinstance(m, nn.Conv2d | nn.Linear)]
        reason = next((f"its channels are added to those of {n} ({fixed[n]})" for n in layers if n in fixed), None)
        multiplying = next((names[m] for m, _ in touched if _multiplies_channels(m)), None)
        if multiplying is not None:
            reason = f"its channels are the input of {multiplying}, which computes several output channels from each"
        if reason is not None:
            reasons |= {name: reason for name in layers if name not in reasons}
    return reasons


def gather_gradients(net: Backbone, batches: Iterable[Any], count: int) -> int:
    """Sum the gradients of the cross-entropy over batches, for importance "taylor".

    Norm layers use their running statistics.

    Args:
        net: Backbone. Its gradients are replaced.
        batches: Tuples (images (B, 3, S, S) float in [0, 1], targets (B,) int64, ...).
        count: Largest number of batches.

    Returns:
        Number of batches used.
    """
    training = [(module, module.training) for module in net.modules()]
    net.eval().zero_grad(set_to_none=True)
    used, device = 0, net.mean.device
    with torch.enable_grad():
        for images, targets, *_ in islice(batches, count):
            F.cross_entropy(net(images.to(device)), targets.to(device)).backward()
            used += 1
    for module, mode in training:
        module.training = mode
    return used


def widths(net: Backbone) -> dict[str, int]:
    """Return the output channels of each convolution and linear layer, by name inside `net.net`."""
    return {
        name: module.out_channels if isinstance(module, nn.Conv2d) else module.out_features
        for name, module in net.net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def _blank_image(net: Backbone, size: int) -> Tensor:
    return net.mean.new_zeros(1, 3, size, size)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warning that unwrapped parameters are pruned along their last dimension. It is correct for timm."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unwrapped parameters detected")
        yield


def _multiplies_channels(module: nn.Module) -> bool:
    """Return whether a grouped convolution has one input and several output channels per group.

    Torch-Pruning treats it as depthwise, which is wrong.
    """
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels != module.out_channels


def _attentions(net: nn.Module) -> list[Any]:
    """Return the attention modules of timm."""
    return [module for module in net.modules() if hasattr(module, "qkv") and hasattr(module, "num_heads")]


def _importance(net: Backbone, name: str) -> Any:
    tp = _torch_pruning()
    if name == "bn_scale":
        if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
            raise ModelError(
                f"prune.importance=bn_scale is invalid: {net.name} has no BatchNorm; give magnitude or taylor"
            )
        return tp.importance.BNScaleImportance()
    if name == "taylor":
        return tp.importance.GroupTaylorImportance()
    return tp.importance.GroupMagnitudeImportance()


def _pruner_type() -> Any:
    base: Any = _torch_pruning().BasePruner

    class Pruner(base):
        """Round the remaining channels to the nearest multiple, at least one multiple.

        Torch-Pruning rounds down, possibly to zero.
        """

        def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
            remaining = max(1, round((current_channels - n_pruned) / round_to)) * round_to
            return max(0, current_channels - remaining)

    return Pruner


def _torch_pruning() -> Any:
    if importlib.util.find_spec("torch_pruning") is None:
        raise ModelError("prune=structured needs torch-pruning: pip install -e '.[export]'")
    return importlib.import_module("torch_pruning")
