"""Base class of litesort's augmentations: kornia augmentations of uint8 pixels with one draw a sample."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from kornia.augmentation import GeometricAugmentationBase2D, RigidAffineAugmentationBase2D
from kornia.augmentation.utils import _transform_input, _transform_input_by_shape
from kornia.geometry.transform import warp_affine
from torch import nn

from datamodules.augment.draw_plan import Plan, draw_plan
from datamodules.augment.fused import run_plan, to_float, to_uint8
from datamodules.augment.geometry import pixel_matrices
from datamodules.augment.slots import FLIP, MODULE, NONE, WARP, Slots
from litesort.keyed_random import uniforms

_GATE = 15  # stream of random numbers: whether a sample is augmented
Params = dict[str, Any]


class PixelAugmentation2D(GeometricAugmentationBase2D):
    """A kornia augmentation that draws for each sample and changes uint8 pixels as Pillow does.

    Images are (B, 3, H, W), (3, H, W) or (B, 3, H, W) uint8, or float in [0, 1], which is rounded to uint8 and back. A
    subclass implements `slots`; `forward`, boxes, masks, keypoints, `params=` and `transform_matrix` follow from it.

    Args:
        p: Probability that a sample is augmented.
        same_on_batch: Draw once for all samples.
        keepdim: Return (3, H, W) for (3, H, W).

    Raises:
        ValueError: A setting is invalid.
    """

    def __init__(self, p: float = 1.0, same_on_batch: bool = False, keepdim: bool = False) -> None:
        super().__init__(p=within("p", p, 0, 1), p_batch=1.0, same_on_batch=same_on_batch, keepdim=keepdim)

    def slots(self, keys: np.ndarray, aspect: float) -> Slots:
        """Draw the parameters of samples, each from its key alone.

        Args:
            keys: (B,) uint64, one a sample.
            aspect: Height / width of the images.
        """
        raise NotImplementedError

    @property
    def chosen_modules(self) -> Sequence[nn.Module]:
        """Other modules that slots of kind MODULE refer to."""
        return ()

    def applied(self, keys: np.ndarray) -> np.ndarray:
        """Draw which samples are augmented, (B,) bool."""
        return np.ones(len(keys), bool) if self.p >= 1 else uniforms(keys, _GATE, 1)[:, 0] < self.p

    def gated_slots(self, keys: np.ndarray, aspect: float = 1.0) -> Slots:
        """Return `slots`; the slots of samples that `p` leaves out are empty."""
        slots = self.slots(keys, aspect)
        if self.p < 1:
            slots.kinds[~self.applied(keys)] = NONE
        return slots

    def forward_parameters(self, batch_shape: Sequence[int]) -> Params:
        """Draw the parameters of a batch (B, C, H, W) with torch's generator."""
        count, _, height, width = batch_shape
        drawn = torch.randint(-(2**63), 2**63 - 1, (1 if self.same_on_batch else count,))
        keys = drawn.expand(count).numpy().view(np.uint64)
        slots = self.slots(keys, height / width)
        params: Params = {
            "kinds": torch.from_numpy(slots.kinds),
            "numbers": torch.from_numpy(slots.numbers),
            "batch_prob": torch.from_numpy(self.applied(keys).astype(np.float32)),
            "forward_input_shape": torch.tensor(tuple(batch_shape)),
        }
        if (slots.kinds == MODULE).any():
            params["modules"] = draw_modules(draw_plan(slots), self.chosen_modules, batch_shape)
        return params

    def transform_tensor(
        self, input: torch.Tensor, *, shape: torch.Tensor | None = None, match_channel: bool = True
    ) -> torch.Tensor:
        """Add missing batch and channel dimensions. Unlike in kornia, images may be uint8."""
        if input.dtype != torch.uint8 and not input.is_floating_point():
            raise TypeError(f"images are {input.dtype}: expected uint8 or float in [0, 1]")
        if shape is None:
            return _transform_input(input)
        return _transform_input_by_shape(input, reference_shape=shape, match_channel=match_channel)

    def validate_tensor(self, input: torch.Tensor) -> None:
        """Check that the input has four dimensions."""
        if input.ndim != 4:
            raise ValueError(f"images are of shape {tuple(input.shape)}: expected (B, C, H, W)")

    @torch.no_grad()
    def apply_transform(
        self, input: torch.Tensor, params: Params, flags: dict[str, Any], transform: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Augment images (B, 3, H, W); returns the same dtype."""
        if input.shape[1] != 3:
            raise ValueError(f"images are of shape {tuple(input.shape)}: expected 3 channels")
        plan = draw_plan(_slots(params))._replace(modules=tuple(params.get("modules", ())))
        plan = plan._replace(
            rows=plan.rows.to(input.device, non_blocking=True), numbers=plan.numbers.to(input.device, non_blocking=True)
        )
        with torch.autocast(input.device.type, enabled=False):
            if input.dtype == torch.uint8:
                return run_plan(input, plan, self.chosen_modules)
            return to_float(run_plan(to_uint8(input), plan, self.chosen_modules)).to(input.dtype)

    def compute_transformation(self, input: torch.Tensor, params: Params, flags: dict[str, Any]) -> torch.Tensor:
        """Return the transformation matrix of each sample, (B, 3, 3), from input to output pixels."""
        slots, (height, width) = _slots(params), input.shape[-2:]
        dtype = input.dtype if input.is_floating_point() else torch.float32
        total = torch.eye(3, dtype=torch.float64).repeat(len(slots.kinds), 1, 1)
        drawn = _module_params(slots, params)
        for column in range(slots.kinds.shape[1]):
            kinds, numbers = slots.kinds[:, column], slots.numbers[:, column]
            rows = np.flatnonzero((kinds == WARP) | (kinds == FLIP))
            matrices = pixel_matrices(numbers[rows, :9].reshape(-1, 3, 3), height, width)
            total[rows] = torch.from_numpy(matrices) @ total[rows]
            for module in np.unique(numbers[kinds == MODULE, 0]).astype(int).tolist():
                rows = np.flatnonzero((kinds == MODULE) & (numbers[:, 0] == module))
                chosen, its_params = self.chosen_modules[module], drawn[column, module]
                if isinstance(chosen, RigidAffineAugmentationBase2D):
                    matrix = chosen.generate_transformation_matrix(as_float(input[rows]), its_params, chosen.flags)
                    total[rows] = matrix.to("cpu", torch.float64) @ total[rows]
        return total.to(dtype).to(input.device)  # MPS has no float64

    def identity_matrix(self, input: torch.Tensor) -> torch.Tensor:
        """Return identity matrices, (B, 3, 3) float, for samples that are not augmented."""
        dtype = input.dtype if input.is_floating_point() else torch.float32
        return torch.eye(3, device=input.device, dtype=dtype).expand(len(input), 3, 3)

    def apply_transform_mask(
        self, input: torch.Tensor, params: Params, flags: dict[str, Any], transform: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Move masks (B, C, H, W) like the images, with nearest-neighbour interpolation; 0 outside."""
        matrix = self.compute_transformation(input, params, flags) if transform is None else transform
        moved = warp_affine(
            as_float(input),
            matrix[:, :2].to(input.device, as_float(input).dtype),
            (input.shape[-2], input.shape[-1]),
            mode="nearest",
            padding_mode="zeros",
            align_corners=True,
        )
        return moved.to(input.dtype)

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build this augmentation."""
        return {"p": self.p}

    def __repr__(self) -> str:
        flags = {name: True for name in ("same_on_batch", "keepdim") if getattr(self, name)}
        arguments = ", ".join(f"{name}={value!r}" for name, value in (self.settings() | flags).items())
        return f"{type(self).__name__}({arguments})"


def draw_modules(plan: Plan, modules: Sequence[Any], batch_shape: Sequence[int]) -> tuple[Any, ...]:
    """Draw the parameters of each pass of kind "module" with torch's generator."""
    return tuple(
        modules[group.module].forward_parameters(torch.Size((group.rows, *batch_shape[1:])))
        for group in plan.passes
        if group.kind == "module"
    )


def as_float(images: torch.Tensor) -> torch.Tensor:
    """Return images as float: float images unchanged, others as float32 with the same values."""
    return images if images.is_floating_point() else images.float()


def within(name: str, value: float, low: float, high: float) -> float:
    """Return a number after a check of its range.

    Raises:
        ValueError: The number is not from `low` to `high`.
    """
    if not low <= value <= high:
        raise ValueError(f"{name}={value} is invalid: expected a number from {low:g} to {high:g}")
    return value


def bounds(name: str, values: Sequence[float], high: float = 100) -> tuple[float, float]:
    """Return the two ends of a range after a check.

    Raises:
        ValueError: The ends are not in order, or not above 0 and at most `high`.
    """
    if len(values) != 2 or not 0 < values[0] <= values[1] <= high:
        raise ValueError(f"{name}={list(values)} is invalid: expected [low, high] with 0 < low <= high <= {high:g}")
    return float(values[0]), float(values[1])


def _slots(params: Params) -> Slots:
    return Slots(params["kinds"].cpu().numpy(), params["numbers"].cpu().double().numpy())


def _module_params(slots: Slots, params: Params) -> dict[tuple[int, int], Any]:
    """Return the parameters of modules by column of the slots and position of the module."""
    kinds, numbers = slots
    places = [
        (column, module)
        for column in range(kinds.shape[1])
        for module in np.unique(numbers[kinds[:, column] == MODULE, column, 0]).astype(int).tolist()
    ]
    return dict(zip(places, params.get("modules", ()), strict=True))
