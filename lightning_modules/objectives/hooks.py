"""Intermediate feature maps of timm networks, read by forward hooks at the levels of timm's `feature_info`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.backbones.backbone import Backbone
from litesort.errors import ModelError


class FeatureHooks:
    """Store the feature maps of some levels in each forward pass.

    Args:
        net: Backbone whose timm network has `feature_info`.
        levels: Indices of the levels: 0 is the first (highest resolution), -1 the last.

    Attributes:
        modules: Name of the hooked module of each level, inside the timm network.

    Raises:
        ModelError: The network has no feature levels, or a level is out of range.
    """

    def __init__(self, net: Backbone, levels: Sequence[int]) -> None:
        names = level_modules(net)
        for level in levels:
            if not -len(names) <= level < len(names):
                raise ModelError(
                    f"objective.levels={list(levels)} is out of range: {net.name} has {len(names)} feature levels, "
                    f"give numbers from {-len(names)} to {len(names) - 1}"
                )
        self.modules = [names[level] for level in levels]
        self._net = net
        self._features: dict[str, Tensor] = {}
        self._hooks = [net.net.get_submodule(name).register_forward_hook(self._hook(name)) for name in self.modules]

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureHooks":
        return self

    def take(self) -> list[Tensor]:
        """Return the (B, C, H, W) feature maps of the last forward pass, one per level, and release them."""
        maps = [as_map(self._features[name], self._net) for name in self.modules]
        self._features.clear()
        return maps

    def close(self) -> None:
        """Remove the hooks from the network."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Any:
        features = self._features

        def store(module: nn.Module, inputs: Any, output: Tensor) -> None:
            features[name] = output

        return store


def level_modules(net: Backbone) -> list[str]:
    """Return the names of the modules that end the feature levels of a timm network, highest resolution first.

    Raises:
        ModelError: The network has no feature levels.
    """
    info = getattr(net.net, "feature_info", None)
    levels = getattr(info, "info", info) or []
    names = [str(level["module"]) for level in levels]
    known = {name for name, _ in net.net.named_modules()}
    if not names or not set(names) <= known:
        raise ModelError(f"{net.name} has no feature levels in timm: use objective=distill_logit")
    return names


def as_map(features: Tensor, net: Backbone) -> Tensor:
    """Convert features to a feature map.

    Args:
        features: (B, C, H, W) float feature map, or (B, N, C) float tokens of a transformer.
        net: Backbone that computed the features.

    Returns:
        (B, C, H, W) float. Prefix tokens are removed and patch tokens form a square map.
    """
    if features.ndim == 4:
        return features
    tokens = features[:, getattr(net.net, "num_prefix_tokens", 0) :]
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


@torch.no_grad()
def channels(net: Backbone, hooks: FeatureHooks) -> list[int]:
    """Return the number of channels of each hooked level.

    The function runs the network on one blank image, because `feature_info` is wrong for a pruned network.
    """
    size = getattr(getattr(net.net, "patch_embed", None), "img_size", None) or (64, 64)
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    net(net.mean.new_zeros(1, 3, *size))
    for module, training in modes:
        module.training = training
    return [features.shape[1] for features in hooks.take()]
