"""Describe pruning as plain data, and replay it on a new copy of the network, without Torch-Pruning."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from litesort.errors import ModelError


def structure_diff(before: nn.Module, after: nn.Module) -> dict[str, Any]:
    """Describe the structural difference of two networks with the same modules.

    Args:
        before: Network before pruning.
        after: Network after pruning.

    Returns:
        Plain data with the values of `after` that differ: {"sizes": {module: {attribute: int or list of int}},
        "shapes": {tensor: list of int}}. "sizes" are integer attributes (channels, groups, heads). "shapes" are
        parameters and buffers.
    """
    old, sizes = dict(before.named_modules()), {}
    for name, module in after.named_modules():
        changed = {key: value for key, value in _sizes(module).items() if _sizes(old[name]).get(key) != value}
        if changed:
            sizes[name] = {key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()}
    shapes = _shapes(before)
    return {"sizes": sizes, "shapes": {key: list(s) for key, s in _shapes(after).items() if shapes[key] != s}}


def replay(net: nn.Module, pruning: Sequence[Mapping[str, Any]], checkpoint: str = "ckpt") -> nn.Module:
    """Apply recorded pruning steps to a new network. The caller loads the weights afterwards.

    Only existing integer attributes and tensor shapes change. No code from the steps is executed.

    Args:
        net: Network as timm builds it. It is changed in place, and its pruned tensors are zero.
        pruning: Results of `structure_diff`, one per step.
        checkpoint: Setting and path of the checkpoint, for error messages.

    Returns:
        `net`.

    Raises:
        ModelError: A step does not fit the network.
    """
    for number, step in enumerate(pruning):
        modules, shapes = dict(net.named_modules()), _shapes(net)
        try:
            for name, sizes in step["sizes"].items():
                old = _sizes(modules[name])
                for key, value in sizes.items():
                    setattr(modules[name], key, _checked_size(old[key], value))
            for key, shape in step["shapes"].items():
                _reshape(net, key, shapes[key], [int(side) for side in shape])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{checkpoint}: pruning step {number} does not fit this network: {error}") from error
    return net


def _sizes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that are integers or tuples of integers. Booleans are excluded."""
    return {
        key: value
        for key, value in vars(module).items()
        if type(value) is int or (type(value) is tuple and value and all(type(v) is int for v in value))
    }


def _shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def _checked_size(old: Any, new: Any) -> Any:
    if isinstance(old, tuple) and len(new) == len(old) and all(type(v) is int for v in new):
        return tuple(new)
    if isinstance(old, int) and type(new) is int:
        return new
    raise ValueError(f"{old!r} cannot become {new!r}")


def _reshape(net: nn.Module, key: str, old: tuple[int, ...], shape: list[int]) -> None:
    if len(old) != len(shape) or any(not 0 < new <= largest for new, largest in zip(shape, old, strict=True)):
        raise ValueError(f"{key} of {list(old)} cannot become {shape}")
    owner, _, name = key.rpartition(".")
    module = net.get_submodule(owner)
    tensor: Tensor = getattr(module, name)
    smaller = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
    else:
        module.register_buffer(name, smaller)
