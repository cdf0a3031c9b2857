"""Backbone: a timm network with the input normalisation inside."""

import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lightning_modules.backbones import pretrained as weight_files
from litesort.errors import ModelError, first_line
from litesort.model_card import arguments_error

log = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Normalise images and classify them with a timm network.

    Attributes:
        net: The timm model.
        mean: (1, 3, 1, 1) float32 buffer, per-channel mean of images in [0, 1].
        std: (1, 3, 1, 1) float32 buffer, per-channel standard deviation of images in [0, 1].
        name: Name of the timm model.
        kwargs: Further arguments of the timm model.
        num_classes: Number of classes C.
        origin: Source of the weights: "hub", "cache", "file:NAME", "package:NAME" or "scratch".
        head_names: Classifier modules of `net`, e.g. ("fc",), or ("head", "head_dist") for a distilled DeiT.
        pruning: Pruning steps since timm built the model, plain data; see `pruning.replay.structure_diff`.
        head_classes: Class names of a classifier that was loaded from a checkpoint, in the order of its logits; None
            for a new classifier.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str,
        num_classes: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        origin: str = "scratch",
        kwargs: Mapping[str, Any] | None = None,
        pruning: Sequence[Mapping[str, Any]] = (),
        head_classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.name = name
        self.num_classes = num_classes
        self.origin = origin
        self.kwargs = dict(kwargs or {})
        self.pruning = [dict(step) for step in pruning]
        self.head_names = head_names(net)
        self.head_classes = list(head_classes) if head_classes else None
        self.register_buffer("mean", _channels("mean", mean))
        self.register_buffer("std", _channels("std", std))
        if hasattr(net, "set_distilled_training"):
            net.set_distilled_training(True)  # type: ignore[operator]  # training returns both heads, evaluation their mean

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the classifier layers. All others belong to the body."""
        return [p for name in self.head_names for p in self.net.get_submodule(name).parameters()]

    def match_head(self, classes: Sequence[str]) -> None:
        """Adapt a loaded classifier to the classes of the data.

        The rows are permuted if the class names are equal. Otherwise the classifier is initialised at random, with a
        warning.

        Args:
            classes: Class names of the data, in the order of the logits.
        """
        known, self.head_classes = self.head_classes, None
        if known is None or known == list(classes):
            return
        if sorted(known) == sorted(classes):
            for parameter in self.head_parameters():
                parameter.data = parameter.data[[known.index(name) for name in classes]]
            return
        log.warning(
            "%s: its classifier has the classes %s and the data has %s, so the classifier is initialised at random",
            *(self.origin, ", ".join(known), ", ".join(classes)),
        )
        reset_head(self.net)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Classify images.

        Args:
            images: (B, 3, H, W) float in [0, 1].

        Returns:
            (B, C) float logits, unnormalised. A distilled DeiT in training returns a pair: class head, distillation
            head.
        """
        scale = 1 / self.std
        return self.net(torch.addcmul(-self.mean * scale, images, scale))  # (images - mean) / std, in one pass

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the classifier, the mean over both heads of a distilled DeiT.

        Args:
            images: (B, 3, H, W) float in [0, 1].

        Returns:
            (B, D) float.
        """
        inputs: list[Tensor] = []
        heads = [self.net.get_submodule(name) for name in self.head_names]
        hooks = [head.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for head in heads]
        try:
            self(images)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(inputs).mean(0)


def create_backbone(
    name: str | None,
    num_classes: int,
    pretrained: bool | str = "auto",
    weights: str | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Backbone:
    """Build a timm network with pretrained weights, if available.

    Args:
        name: Name of any timm model.
        num_classes: Number of classes of the data, 2 or more.
        pretrained: "auto" tries an installed package, the local cache and the hub, and otherwise initialises at random
            with a warning. True raises ModelError instead of a random initialisation. False uses random weights and no
            network access.
        weights: Local .pth, .pt, .safetensors or litesort .ckpt file. It replaces `pretrained`.
        drop_rate: Dropout before the classifier, in [0, 1).
        drop_path_rate: Stochastic depth, in [0, 1).
        mean: Three numbers for images in [0, 1]; None for the mean of the weights.
        std: Three numbers for images in [0, 1]; None for the standard deviation of the weights.
        kwargs: Further arguments of the timm model.

    Returns:
        The backbone in training mode.

    Raises:
        ModelError: A setting is invalid, or the weights are missing, broken or do not fit.
    """
    name = _checked(name, num_classes, pretrained, weights)
    arguments = {key: rate for key, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)) if rate}
    arguments |= dict(kwargs or {})
    net = build_timm(name, num_classes, arguments)
    loaded = weight_files.Loaded("scratch", None, None)
    if weights is not None:
        loaded = weight_files.load_file(net, head_names(net), weights)
    elif pretrained is not False:
        net, loaded = weight_files.load_pretrained(net, name, num_classes, arguments, required=pretrained is True)
        if loaded.origin in ("hub", "cache") and getattr(net, "pretrained_cfg", {}).get("num_classes") != num_classes:
            reset_head(net)
    return Backbone(
        net,
        name=name,
        num_classes=num_classes,
        mean=mean or loaded.mean or IMAGENET_MEAN,
        std=std or loaded.std or IMAGENET_STD,
        origin=loaded.origin,
        kwargs=arguments,
        head_classes=loaded.head_classes,
    )


def _checked(name: str | None, num_classes: int, pretrained: bool | str, weights: str | None) -> str:
    if not name:
        raise ModelError(
            "model.name is not given: give the name of a timm model, e.g. model=timm model.name=regnety_002"
        )
    if pretrained not in (True, False, "auto"):
        raise ModelError(f"model.pretrained={pretrained} is unknown: give auto, true or false")
    if weights is not None and pretrained is True:
        raise ModelError(f"model.pretrained=true and model.weights={weights} both select weights: give one")
    if num_classes < 2:
        raise ModelError(f"a classifier needs two classes or more, but the data has {num_classes}")
    return name


def build_timm(name: str, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a randomly initialised timm model without network access.

    Args:
        name: Name of the timm model.
        num_classes: Number of classes.
        arguments: Further arguments of the timm model.

    Returns:
        The model.

    Raises:
        ModelError: The name is unknown, or timm rejects an argument.
    """
    if ":" in name or "/" in name:
        raise ModelError(
            f"model.name={name} is a path, not the name of a timm model: give the name, and "
            "the path as model.weights=FILE"
        )
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists all names"
        raise ModelError(f"model.name={name} is not a timm model: {hint}")
    if reason := arguments_error(arguments):
        raise ModelError(f"model.kwargs {reason}: give numbers and words; weights come from model.weights=FILE")
    try:
        net = timm.create_model(name, pretrained=False, num_classes=num_classes, **arguments)
    except Exception as error:  # timm passes arguments to many layers, which raise errors of any type
        given = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "no arguments"
        raise ModelError(f"model.name={name} cannot be built with {given}: {first_line(error)}") from error
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None) or (1,)
    if isinstance(size := arguments.get("img_size"), int) and size % patch[0]:
        raise ModelError(f"data.size={size} is invalid for {name}: give a multiple of {patch[0]}")
    reset_head(net)
    return net


def reset_head(net: nn.Module) -> None:
    """Initialise the classifier layers of a timm model with small random weights and zero bias.

    timm scales the initial weights of EfficientNets and MobileNets by the number of classes. With six classes the
    first loss is then above 5, while chance is below 2. Its large gradients damage pretrained features.
    """
    for name in head_names(net):
        for parameter in net.get_submodule(name).parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)


def head_names(net: nn.Module) -> tuple[str, ...]:
    """Return the names of the classifier modules of a timm model.

    Raises:
        ModelError: The model has no classifier layer.
    """
    head = net.get_classifier()  # type: ignore[operator]
    heads = head if isinstance(head, tuple | list) else (head,)
    names = tuple(name for name, module in net.named_modules() if any(module is h for h in heads))
    if not names or any(isinstance(h, nn.Identity) for h in heads):
        raise ModelError(
            f"{type(net).__name__} has no classifier layer that litesort can find: choose another model.name"
        )
    return names


def _channels(what: str, values: Sequence[float]) -> Tensor:
    numbers = [float(v) for v in values]
    if len(numbers) != 3 or (what == "std" and min(numbers) <= 0):
        three = "three numbers above 0" if what == "std" else "three numbers"
        raise ModelError(f"model.{what}={numbers} is invalid: give {three}, one per channel")
    return torch.tensor(numbers).view(1, 3, 1, 1)
