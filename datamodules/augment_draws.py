"""What was drawn for a batch, and the counter-based random numbers it was drawn from."""

from typing import NamedTuple

import torch


class Pass(NamedTuple):
    """One grouped operation: which rows of the batch it touches and where its numbers lie; Python values only."""

    kind: str
    first_row: int
    rows: int
    first_number: int


class Draws(NamedTuple):
    """The augmentation of a batch, drawn on the host, moved with the batch; nothing on the device waits for it."""

    rows: torch.Tensor
    numbers: torch.Tensor
    passes: tuple[Pass, ...] = ()
    partners: torch.Tensor | None = None
    mixes: torch.Tensor | None = None
