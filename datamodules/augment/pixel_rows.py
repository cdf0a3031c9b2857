"""Apply operations to some samples of a batch. On a CPU, in blocks that fit into its cache."""

import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import torch

# float32 numbers: two images of 224 px, about the size of a second-level cache
_CACHE = 300_000
_FREE: dict[torch.dtype, deque[np.ndarray]] = {torch.uint8: deque(maxlen=1), torch.float32: deque(maxlen=2)}


class PixelRows:
    """Some samples of pixels (B, H, W, 3) uint8, contiguous. rows (N,) int64 are their positions, without
    repetition.
    """

    def __init__(self, pixels: torch.Tensor, rows: torch.Tensor) -> None:
        self._rows = rows
        self.at_once = rows_at_once(pixels)
        self.height, self.width = pixels.shape[1:3]
        self._shape = pixels.shape[1:]
        flat = pixels.view(len(pixels), -1)
        # torch copies rows of 8-byte numbers six times as fast as rows of bytes
        self._flat = flat.view(torch.int64) if flat.shape[1] % 8 == 0 else flat

    def read(self, measure: Callable[[torch.Tensor], torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Compute one row a sample of samples [start, stop); `measure` receives pixels (n, H, W, 3)."""
        if stop == start:
            return torch.empty(0, device=self._rows.device)
        return torch.cat([measure(self._take(part)) for part in self._rows[start:stop].split(self.at_once)])

    def change(self, operation: Callable[..., None], *numbers: torch.Tensor) -> None:
        """Change pixels (n, H, W, 3) in place by an operation, which also receives its rows of `numbers`."""
        for part, *some in zip(*(each.split(self.at_once) for each in (self._rows, *numbers)), strict=True):
            pixels = self._take(part)
            operation(pixels, *some)
            self._flat.index_copy_(0, part, pixels.view(len(part), -1).view(self._flat.dtype))

    def change_whole(self, operation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace pixels (N, H, W, 3) by the result of an operation on all of them."""
        pixels = operation(self._take(self._rows)).contiguous()
        self._flat.index_copy_(0, self._rows, pixels.view(len(pixels), -1).view(self._flat.dtype))

    def _take(self, rows: torch.Tensor) -> torch.Tensor:
        return self._flat.index_select(0, rows).view(torch.uint8).view(-1, *self._shape)


def rows_at_once(pixels: torch.Tensor) -> int:
    """Number of samples a block of pixels (B, H, W, 3): as many as a CPU's cache holds as float32; all on other
    devices.
    """
    return max(1, _CACHE // pixels[0].numel()) if pixels.device.type == "cpu" else max(1, len(pixels))


def fresh(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Allocate memory for a batch. On a CPU, reuse that of an earlier batch that is no longer referenced.

    The system clears new memory page by page, which takes longer than the warp of a batch of 64 images of 224 px.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    free = _FREE[dtype]
    try:  # not "if free": another thread may take the last one
        memory = free.pop()
    except IndexError:
        memory = np.empty(0)
    if memory.shape != tuple(shape):
        memory = np.empty(shape, dtype=str(dtype).removeprefix("torch."))
    # only torch references this view: it is finalised with the last tensor that shares its memory
    view = memory.view()
    weakref.finalize(view, free.append, memory).atexit = False
    return torch.from_numpy(view)
