"""Cache of the outputs of a teacher for batches that repeat."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor


class TeacherCache:
    """Store the outputs of a teacher per batch, and return them when the batch repeats.

    The cache is not an nn.Module: it stays out of state_dict and weight averaging. Copies of an objective share it.
    Values are stored in float16 on their device.

    Args:
        max_bytes: Capacity in bytes. Outputs that do not fit are computed each time.

    Attributes:
        key: Key of the next batch. Batches with the same images and the same augmentation have equal keys. None
            disables the cache for the batch.
        mirrored: Whether the next batch is flipped left to right.
        size: Bytes in use.
    """

    def __init__(self, max_bytes: float) -> None:
        self.max_bytes, self.size = max_bytes, 0
        self.key: Hashable | None = None
        self.mirrored = False
        self._outputs: dict[Hashable, list[Tensor]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "TeacherCache":
        return self

    def __call__(self, images: Tensor, compute: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """Return the outputs for a batch, from the cache or by `compute`.

        Args:
            images: (B, 3, H, W) float in [0, 1].
            compute: Computes the outputs of the teacher: logits (B, C) and feature maps (B, C, h, w).

        Returns:
            float32 tensors. Feature maps are flipped back if the batch is mirrored.
        """
        if self.key is None:
            return compute(images)
        key = self.key, images.shape  # progressive resizing changes the shape of the same images
        values = self._outputs.get(key)
        if values is None:
            values = [value.to(torch.float16) for value in compute(images.flip(3) if self.mirrored else images)]
            if self.size + (size := sum(value.nbytes for value in values)) <= self.max_bytes:
                self._outputs[key], self.size = values, self.size + size
        return [value.float().flip(3) if self.mirrored and value.ndim == 4 else value.float() for value in values]
