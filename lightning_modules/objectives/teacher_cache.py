"""What a teacher made of batches that come again, so that it is run once for each."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor


class TeacherCache:
    """Keep what was seen of a batch, and give it back when the batch comes again.

    No nn.Module, so that state_dict and weight averaging never see it; a copy of an objective shares it. Values are
    kept, and given, as float16 holds them, on their device.

    Args:
        max_bytes: What does not fit in is not kept, and looked at each time.

    Attributes:
        place: Of the batch that comes next: equal for batches of the same photos, varied alike. None keeps nothing.
        mirrored: Whether that batch is flipped left to right this time.
        size: Bytes that are kept.
    """

    def __init__(self, max_bytes: float) -> None:
        self.max_bytes, self.size = max_bytes, 0
        self.place: Hashable | None = None
        self.mirrored = False
        self._kept: dict[Hashable, list[Tensor]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "TeacherCache":
        return self

    def __call__(self, images: Tensor, look: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """images: (B, 3, H, W) -> what `look` makes of them: float32 tensors; maps (B, C, h, w) lie as they do."""
        if self.place is None:
            return look(images)
        place = self.place, images.shape  # the same photos may come smaller: they are others then
        values = self._kept.get(place)
        if values is None:
            values = [value.to(torch.float16) for value in look(images.flip(3) if self.mirrored else images)]
            if self.size + (size := sum(value.nbytes for value in values)) <= self.max_bytes:
                self._kept[place], self.size = values, self.size + size
        return [value.float().flip(3) if self.mirrored and value.ndim == 4 else value.float() for value in values]
