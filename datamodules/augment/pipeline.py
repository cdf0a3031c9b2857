"""Augment: a pipeline of kornia augmentations. The host draws the parameters, the device applies them.

`python -m datamodules.augment` writes contact sheets.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from kornia.augmentation import MixAugmentationBaseV2, RandomGaussianNoise, RandomHorizontalFlip, RandomJigsaw
from lightning_utilities.core.apply_func import apply_to_collection
from torch import nn

from datamodules.augment import flip
from datamodules.augment.draw_plan import Plan, draw_plan
from datamodules.augment.fused import run_plan, to_float, to_uint8
from datamodules.augment.generator import OwnGenerator, batch_seed
from datamodules.augment.mix import MixDraws, Mixing
from datamodules.augment.pixel_augmentation import PixelAugmentation2D, draw_modules
from datamodules.augment.slots import MODULE, empty_slots, join_slots
from litesort.errors import DataError
from litesort.keyed_random import mix64

_KEY = "augment.transforms"


class Draws(NamedTuple):
    """Drawn parameters of a batch, moved to the device with the batch.

    Attributes:
        steps: Parameters of each step of the pipeline.
        mix: Parameters of mixup and cutmix, or None.
    """

    steps: tuple[Any, ...]
    mix: MixDraws | None = None

    def pin_memory(self) -> "Draws":
        """Return the same draws in page-locked memory, so that the copy to a GPU is asynchronous."""
        pinned: Draws = apply_to_collection(self, torch.Tensor, torch.Tensor.pin_memory)
        return pinned


class OnHost:
    """Parameters that stay on the host, since their class reads them as Python values."""

    def __init__(self, params: Any) -> None:
        self.params = params


class Augment(nn.Module):
    """A pipeline of augmentations in the order of its names.

    An entry is one of litesort's augmentations, any augmentation of kornia that keeps the size, or another module from
    (B, 3, H, W) float in [0, 1] to the same. Neighbouring augmentations of litesort run as fused passes.

    litesort's augmentations draw from the key of each sample, and kornia's from the keys of the whole batch, both on
    the host. Other modules draw while they run, from torch's generators, which are seeded by the keys of the batch and
    restored afterwards. The random numbers of an entry depend on its name, so adding or removing an entry does not
    change those of the others.

    Args:
        transforms: Name -> module. None leaves an entry out.
        mixing: Mixup and cutmix, or None.

    Raises:
        DataError: An entry is not a module, or blends several images.
    """

    def __init__(self, transforms: Mapping[str, nn.Module | None] | None = None, mixing: Mixing | None = None) -> None:
        super().__init__()
        named = {str(name): module for name, module in (transforms or {}).items() if module is not None}
        for name, module in named.items():
            _check_kind(name, module)
        self.mixing = mixing
        self.steps: list[_Step] = []
        for fused, group in groupby(named.items(), lambda item: isinstance(item[1], PixelAugmentation2D)):
            if fused:
                self.steps.append(_Fused(dict(group)))
            else:
                self.steps += [(_Kornia if _is_kornia(each) else _Plain)(name, each) for name, each in group]
        self._modules_of_steps = nn.ModuleList(self.steps)

    @property
    def transforms(self) -> dict[str, nn.Module]:
        """Name -> module, in order."""
        return {name: module for step in self.steps for name, module in step.entries.items()}

    @property
    def flips(self) -> bool:
        """Whether an entry flips images left to right. Container classes of kornia are not searched."""
        kinds = (flip.RandomHorizontalFlip, RandomHorizontalFlip)
        return any(isinstance(each, kinds) and each.p > 0 for each in self.transforms.values())

    def draw(self, keys: np.ndarray, size: int) -> Draws:
        """Draw parameters on the host.

        Args:
            keys: (B,) uint64, one a sample.
            size: Side of the images in pixels.
        """
        steps = tuple(step.draw(keys, size) for step in self.steps)
        mixing = self.mixing if self.mixing is not None and self.mixing.on else None
        return Draws(steps, mixing.draw(keys, size) if mixing is not None else None)

    @torch.no_grad()
    def forward(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Augment images (B, 3, S, S) uint8, ideally a channels_last view of NHWC.

        Returns:
            (B, 3, S, S) float32 in [0, 1], channels_last.

        Raises:
            DataError: The images are not uint8 or not square.
        """
        size, width = images.shape[-2:]
        if images.dtype != torch.uint8 or size != width:
            raise DataError(f"augment: images are {images.dtype} of {size} x {width} px: expected square uint8 images")
        # bfloat16 coordinates shift pixels
        with torch.autocast(images.device.type, enabled=False):
            for step, drawn in zip(self.steps, draws.steps, strict=True):
                images = step(images, drawn)
            images = to_float(images) if images.dtype == torch.uint8 else images.float()
        return images.contiguous(memory_format=torch.channels_last)

    def mix(
        self, images: torch.Tensor, targets: torch.Tensor, num_classes: int, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix images (B, 3, S, S) float and targets (B,) int64 within the batch.

        Returns:
            Images, and targets (B, num_classes) float32; both unchanged if mixing is off.
        """
        if self.mixing is None or draws.mix is None:
            return images, targets
        mixed: tuple[torch.Tensor, torch.Tensor] = self.mixing(images, targets, num_classes, draws.mix)
        return mixed

    def check(self, size: int) -> None:
        """Run each entry on a batch of two images of noise.

        Args:
            size: Side of the images in pixels.

        Raises:
            DataError: An entry fails, changes the size, or returns NaN or values outside of [0, 1].
        """
        with OwnGenerator(0):
            images = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        for step in self.steps:
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                step.check(images)


class _Step(nn.Module):
    """A part of a pipeline.

    Attributes:
        entries: Name -> module.
    """

    entries: dict[str, Any]

    def draw(self, keys: np.ndarray, size: int) -> Any:
        """Draw parameters for samples with these keys (B,) uint64."""
        raise NotImplementedError

    def check(self, images: torch.Tensor) -> None:
        """Run the entries on images (2, 3, S, S) uint8."""
        raise NotImplementedError


class _Fused(_Step):
    """Neighbouring augmentations of litesort: one plan of passes over uint8 pixels."""

    def __init__(self, entries: dict[str, Any]) -> None:
        super().__init__()
        self.entries = entries
        self._list = nn.ModuleList(entries.values())
        self._modules_of_ops = [one for each in entries.values() for one in each.chosen_modules]
        self._seed = "/".join(entries)

    def draw(self, keys: np.ndarray, size: int) -> Plan:
        parts, module = [], 0
        for name, each in self.entries.items():
            if each.p == 0:
                continue
            sample_keys = entry_keys(keys, name)
            if each.same_on_batch:
                sample_keys = np.full(len(keys), batch_seed(keys, name), dtype=np.uint64)
            slots = each.gated_slots(sample_keys)
            if each.chosen_modules:
                slots.numbers[..., 0] += module * (slots.kinds == MODULE)
                module += len(each.chosen_modules)
            parts.append(slots)
        plan = draw_plan(join_slots(parts) if parts else empty_slots(len(keys), 0))
        if not module:
            return plan
        with OwnGenerator(batch_seed(keys, self._seed)):
            drawn = draw_modules(plan, self._modules_of_ops, (len(keys), 3, size, size))
        return plan._replace(modules=tuple(map(OnHost, drawn)))

    def forward(self, images: torch.Tensor, plan: Plan) -> torch.Tensor:
        images = images if images.dtype == torch.uint8 else to_uint8(images)
        plan = plan._replace(modules=tuple(each.params for each in plan.modules))
        return run_plan(images, plan, self._modules_of_ops)

    def check(self, images: torch.Tensor) -> None:
        for name, each in self.entries.items():
            for module in each.chosen_modules:
                _check_result(f"{name}.ops", module, images, _Kornia(name, module))


class _Kornia(_Step):
    """One augmentation of kornia, or a container of them."""

    def __init__(self, name: str, module: Any) -> None:
        super().__init__()
        self.entries = {name: module}
        self.module = module
        self._name = name
        self._on_device: bool | None = None

    def draw(self, keys: np.ndarray, size: int) -> Any:
        shape = torch.Size((len(keys), 3, size, size))
        if self._on_device is None:
            self._on_device = runs_on_device(self.module, shape)
        with OwnGenerator(batch_seed(keys, self._name)):
            params = self.module.forward_parameters(shape)
        return params if self._on_device else OnHost(params)

    def forward(self, images: torch.Tensor, params: Any) -> torch.Tensor:
        images = to_float(images) if images.dtype == torch.uint8 else images
        changed: torch.Tensor = self.module(images, params=params.params if isinstance(params, OnHost) else params)
        # kornia adds noise without clipping; values outside of [0, 1] are clipped, as a sensor saturates
        return changed.clamp(0, 1) if isinstance(self.module, RandomGaussianNoise) else changed

    def check(self, images: torch.Tensor) -> None:
        _check_result(self._name, self.module, images, self)


class _Plain(_Step):
    """Another module, which draws from torch's generators while it runs."""

    def __init__(self, name: str, module: Any) -> None:
        super().__init__()
        self.entries = {name: module}
        self.module = module
        self._name = name

    def draw(self, keys: np.ndarray, size: int) -> int:
        return batch_seed(keys, self._name)

    def forward(self, images: torch.Tensor, seed: int) -> torch.Tensor:
        images = to_float(images) if images.dtype == torch.uint8 else images
        # fork_rng does not restore the generator of MPS, which continues from the seed
        with torch.random.fork_rng([images.device.index or 0] if images.device.type == "cuda" else []):
            torch.manual_seed(seed)
            changed: torch.Tensor = self.module.to(images.device)(images)
        return changed

    def check(self, images: torch.Tensor) -> None:
        _check_result(self._name, self.module, images, self)


def runs_on_device(module: Any, shape: Sequence[int]) -> bool:
    """Return whether a kornia augmentation can take its parameters on the device.

    Some classes read parameters as Python values, which would synchronise with a GPU. Tensors on the meta device have
    no values, so reading one fails.
    """
    with OwnGenerator(0):
        params = module.forward_parameters(torch.Size(shape))
    try:
        meta_params = apply_to_collection(params, torch.Tensor, lambda tensor: tensor.to("meta"))
        module(torch.empty(*shape, device="meta"), params=meta_params)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return False
    return True


def _is_kornia(module: nn.Module) -> bool:
    return hasattr(module, "forward_parameters")


def entry_keys(keys: np.ndarray, name: str) -> np.ndarray:
    """Return the keys (B,) uint64 that an entry of a pipeline draws from."""
    return keys ^ _salt(name)


@cache
def _salt(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


def _check_kind(name: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise DataError(f"{_KEY}.{name} is not a module: give it a _target_, or null to leave it out")
    if isinstance(module, MixAugmentationBaseV2) and not isinstance(module, RandomJigsaw):
        raise DataError(
            f"{_KEY}.{name}: {type(module).__name__} needs several images at once: use augment.mixing, or remove it"
        )


def _check_result(name: str, module: nn.Module, images: torch.Tensor, step: _Step) -> None:
    """Run a module on two images, with a probability of 1 where the module has one."""
    where, size = f"{_KEY}.{name}: {type(module).__name__}", images.shape[-1]
    try:
        drawn = step.draw(mix64(np.arange(2, dtype=np.uint64)), size)
        params = drawn.params if isinstance(drawn, OnHost) else drawn
        if isinstance(params, dict) and "batch_prob" in params:
            params["batch_prob"] = torch.ones_like(params["batch_prob"])
        changed = step(images, drawn)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where} fails on two images of {size} px: {reason:.200}") from error
    if not isinstance(changed, torch.Tensor) or changed.shape != images.shape:
        shape = tuple(changed.shape) if isinstance(changed, torch.Tensor) else type(changed).__name__
        raise DataError(f"{where} returns {shape} for {tuple(images.shape)}: choose one that keeps the size")
    if not bool(changed.isfinite().all()):
        raise DataError(f"{where} returns NaN or infinity: change its settings, or remove it")
    low, high = float(changed.min()), float(changed.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise DataError(
            f"{where} returns values from {low:.2f} to {high:.2f}: expected [0, 1]; the network normalises by itself"
        )
