"""Inner feature maps of timm networks, found by timm's `feature_info` and taken while the network runs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.backbones.backbone import Backbone
from litesort.errors import ModelError


class FeatureHooks:
    """Take the feature maps of chosen levels whenever the network runs.

    Args:
        net: A backbone whose timm network has `feature_info`.
        levels: Which of its levels: 0 is the first and finest, -1 the last.

    Attributes:
        modules: Name of the tapped module of each level, inside the timm network.

    Raises:
        ModelError: The network has no levels, or not these.
    """

    def __init__(self, net: Backbone, levels: Sequence[int]) -> None:
        names = level_modules(net)
        for level in levels:
            if not -len(names) <= level < len(names):
                raise ModelError(
                    f"objective.levels={list(levels)}: {net.name} has {len(names)} levels of features, so give "
                    f"numbers from {-len(names)} to {len(names) - 1}"
                )
        self.modules = [names[level] for level in levels]
        self._net = net
        self._seen: dict[str, Tensor] = {}
        self._hooks = [net.net.get_submodule(name).register_forward_hook(self._hook(name)) for name in self.modules]

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureHooks":
        return self

    def take(self) -> list[Tensor]:
        """Maps (B, C, H, W) of the last run, one a level; forgets them."""
        maps = [as_map(self._seen[name], self._net) for name in self.modules]
        self._seen.clear()
        return maps

    def close(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Any:
        seen = self._seen

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name] = output

        return keep


def level_modules(net: Backbone) -> list[str]:
    """Names of the modules inside the timm network that end its levels, finest first."""
    info = getattr(net.net, "feature_info", None)
    levels = getattr(info, "info", info) or []
    names = [str(level["module"]) for level in levels]
    known = {name for name, _ in net.net.named_modules()}
    if not names or not set(names) <= known:
        raise ModelError(f"{net.name} names no levels of features: choose objective=distill_logit")
    return names


def as_map(features: Tensor, net: Backbone) -> Tensor:
    """(B, C, H, W) maps as they are; tokens (B, N, C) of a transformer without its prefix, laid out as a square map."""
    if features.ndim == 4:
        return features
    tokens = features[:, getattr(net.net, "num_prefix_tokens", 0) :]
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


@torch.no_grad()
def channels(net: Backbone, taps: FeatureHooks) -> list[int]:
    """Channels of each tapped level, seen by running one blank photo: a pruned network has fewer than timm says."""
    size = getattr(getattr(net.net, "patch_embed", None), "img_size", None) or (64, 64)
    was = [(module, module.training) for module in net.modules()]
    net.eval()
    net(net.mean.new_zeros(1, 3, *size))
    for module, training in was:
        module.training = training
    return [features.shape[1] for features in taps.take()]
