"""Apply operations to some samples of a batch. On a CPU, blocks of samples fit into its cache."""

import weakref
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import torch

# float32 numbers in a block: two images of 224 px, about the size of an L2 cache
_CACHE = 300_000
# memory that later batches reuse
_FREE: dict[torch.dtype, deque[np.ndarray]] = {torch.uint8: deque(maxlen=1), torch.float32: deque(maxlen=2)}


class PixelRows:
    """Contiguous pixels (B, H, W, 3) uint8. Operations read or change the pixels of some of the B samples (rows)."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.height, self.width = pixels.shape[1:3]
        self.at_once = rows_at_once(pixels)
        self._shape = (-1, *pixels.shape[1:])
        flat = pixels.view(len(pixels), -1)
        # torch copies rows of 8-byte numbers six times as fast as rows of bytes
        self._flat = flat.view(torch.int64) if flat.shape[1] % 8 == 0 else flat

    def read(self, rows: torch.Tensor, measure: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Compute one value a row, for rows (N,) int64; `measure` receives pixels (n, H, W, 3)."""
        return torch.cat([measure(self._pixels(self._flat.index_select(0, part))) for (part,) in self._blocks(rows)])

    def change(self, rows: torch.Tensor, operation: Callable[..., None], *numbers: torch.Tensor) -> None:
        """Change pixels (n, H, W, 3) of rows (N,) int64, without repetition, in place by an operation, which also
        receives its rows of `numbers`.
        """
        for part, *some in self._blocks(rows, *numbers):
            taken = self._flat.index_select(0, part)
            operation(self._pixels(taken), *some)
            self._flat.index_copy_(0, part, taken)

    def change_whole(self, rows: torch.Tensor, operation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace pixels (N, H, W, 3) of rows (N,) int64 by the result of an operation on all of them."""
        pixels = operation(self._pixels(self._flat.index_select(0, rows))).contiguous()
        self._flat.index_copy_(0, rows, pixels.view(len(pixels), -1).view(self._flat.dtype))

    def _blocks(self, *tensors: torch.Tensor) -> Iterable[tuple[torch.Tensor, ...]]:
        if len(tensors[0]) <= self.at_once:
            return [tensors]
        return zip(*(each.split(self.at_once) for each in tensors), strict=True)

    def _pixels(self, taken: torch.Tensor) -> torch.Tensor:
        return taken.view(torch.uint8).view(self._shape)


def rows_at_once(pixels: torch.Tensor) -> int:
    """Number of samples in a block of pixels (B, H, W, 3).

    On a CPU, a block fits into the cache as float32. On other devices, one block has all samples.
    """
    return max(1, _CACHE // pixels[0].numel()) if pixels.device.type == "cpu" else max(1, len(pixels))


def batch_memory(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Allocate memory for a batch. On a CPU, reuse the memory of an earlier batch that is no longer referenced.

    The system clears new memory page by page. For 64 images of 224 px, this takes longer than their warp.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    free = _FREE[dtype]
    try:  # instead of a test for an empty deque, after which another thread may take the last item
        memory = free.pop()
    except IndexError:
        memory = np.empty(0)
    if memory.shape != tuple(shape):
        memory = np.empty(shape, dtype=str(dtype).removeprefix("torch."))
    # only torch references this view: it is finalised with the last tensor that shares its memory
    view = memory.view()
    weakref.finalize(view, free.append, memory).atexit = False
    return torch.from_numpy(view)
