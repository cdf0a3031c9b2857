"""Slots: the drawn parameters of litesort's augmentations, sample by sample, in the order of their application."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Kinds of slots, and their parameters (numbers) in order:
#   TABLES: the five columns of a table step
#   WARP, FLIP: a matrix, row by row, from output to input coordinates; in column FILL the grey outside of the image
#   COLOR, SHARPNESS: a factor
#   ERASE: left, top, width, height of a box in [0, 1], a seed, and a grey, or `NOISE` to fill with noise
#   MODULE: the position of a module in `chosen_modules`
KINDS = NONE, TABLES, WARP, COLOR, SHARPNESS, FLIP, ERASE, MODULE = range(8)
# columns of a table step, and their values in the identity
THRESHOLD, QUANTUM, FACTOR, ABOUT_MEAN, STATISTIC = range(5)
IDENTITY_STEP = (256.0, 1.0, 1.0, 0.0, 0.0)
AUTOCONTRAST, EQUALIZE = 1, 2  # values of STATISTIC
FILL = 9
NUMBERS = 10  # columns of a slot
NO_FILL = -1.0  # fill of a warp that shows nothing outside of the image
NOISE = -1.0  # in place of the grey of an erased box


class Slots(NamedTuple):
    """Drawn parameters of B samples in L slots.

    Attributes:
        kinds: (B, L) int64, one of `KINDS`.
        numbers: (B, L, 10) float64, parameters by kind.
    """

    kinds: np.ndarray
    numbers: np.ndarray


def empty_slots(count: int, length: int) -> Slots:
    """Return `length` empty slots for each of `count` samples."""
    return Slots(np.zeros((count, length), dtype=np.int64), np.zeros((count, length, NUMBERS)))


def join_slots(parts: Sequence[Slots]) -> Slots:
    """Put the slots of several augmentations one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Slots(
        np.concatenate([part.kinds for part in parts], axis=1), np.concatenate([part.numbers for part in parts], axis=1)
    )
