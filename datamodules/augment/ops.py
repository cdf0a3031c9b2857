"""The operations of RandAugment. To add an operation, add one entry to `OPERATIONS`."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from datamodules.augment.slots import (
    ABOUT_MEAN,
    AUTOCONTRAST,
    COLOR,
    EQUALIZE,
    FACTOR,
    FILL,
    IDENTITY_STEP,
    NONE,
    QUANTUM,
    SHARPNESS,
    STATISTIC,
    TABLES,
    THRESHOLD,
    WARP,
)

Amount = Callable[[np.ndarray, "Ranges"], np.ndarray]
Write = Callable[[np.ndarray, np.ndarray, float], None]


class Ranges(NamedTuple):
    """Amounts at the highest level: degrees, tangent, fraction of a side, change of factors, threshold, bits."""

    rotate: float
    shear: float
    translate: float
    enhance: float
    solarize: float
    posterize: float


class Operation(NamedTuple):
    """One operation.

    Attributes:
        kind: One of `slots.KINDS`.
        amount: Function of strengths (N,) in [-1, 1] (signed level / highest level) and ranges; returns amounts (N,).
        write: Fills the numbers (N, 10) of its slots, in place, from amounts (N,) and the images' height / width.
    """

    kind: int
    amount: Amount = lambda strengths, ranges: np.zeros_like(strengths)
    write: Write = lambda numbers, amounts, aspect: None


def _enhance(strengths: np.ndarray, ranges: Ranges) -> np.ndarray:
    return 1 + strengths * ranges.enhance


def _thresholds(strengths: np.ndarray, ranges: Ranges) -> np.ndarray:
    return np.ceil(256 + abs(strengths) * (ranges.solarize - 256))


def _bits(strengths: np.ndarray, ranges: Ranges) -> np.ndarray:
    return np.round(8 + abs(strengths) * (ranges.posterize - 8))


def _step(*columns: int, value: float | None = None) -> Write:
    """Return a function that writes table steps.

    The first of `columns` gets `value`, or the amount if `value` is None. The other columns get 1.
    """

    def write(numbers: np.ndarray, amounts: np.ndarray, aspect: float) -> None:
        numbers[:, :5] = IDENTITY_STEP
        numbers[:, columns] = 1.0
        numbers[:, columns[0]] = amounts if value is None else value

    return write


def _quantum(numbers: np.ndarray, bits: np.ndarray, aspect: float) -> None:
    _step(QUANTUM)(numbers, 2.0 ** (8 - bits), aspect)


def _factor(numbers: np.ndarray, factors: np.ndarray, aspect: float) -> None:
    numbers[:, 0] = factors


# Matrices, row by row, from output to input coordinates, which run from -1 to 1 between the edges of the image.


def _rotate(numbers: np.ndarray, degrees: np.ndarray, aspect: float) -> None:
    """Rotate clockwise about the centre."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    numbers[:, 0], numbers[:, 1] = cosine, sine * aspect
    numbers[:, 3], numbers[:, 4] = -sine / aspect, cosine
    numbers[:, 8] = 1.0


def _shear_x(numbers: np.ndarray, tangents: np.ndarray, aspect: float) -> None:
    """Shear about the top left corner, as Pillow's AFFINE does."""
    numbers[:, :FILL] = np.eye(3).ravel()
    numbers[:, 1] = numbers[:, 2] = tangents * aspect


def _shear_y(numbers: np.ndarray, tangents: np.ndarray, aspect: float) -> None:
    numbers[:, :FILL] = np.eye(3).ravel()
    numbers[:, 3] = numbers[:, 5] = tangents / aspect


def _translate_x(numbers: np.ndarray, fractions: np.ndarray, aspect: float) -> None:
    numbers[:, :FILL] = np.eye(3).ravel()
    numbers[:, 2] = 2 * fractions


def _translate_y(numbers: np.ndarray, fractions: np.ndarray, aspect: float) -> None:
    numbers[:, :FILL] = np.eye(3).ravel()
    numbers[:, 5] = 2 * fractions


OPERATIONS = {
    "Identity": Operation(NONE),
    "AutoContrast": Operation(TABLES, write=_step(STATISTIC, value=AUTOCONTRAST)),
    "Equalize": Operation(TABLES, write=_step(STATISTIC, value=EQUALIZE)),
    "Rotate": Operation(WARP, lambda strengths, ranges: strengths * ranges.rotate, _rotate),
    "Solarize": Operation(TABLES, _thresholds, _step(THRESHOLD)),
    "Color": Operation(COLOR, _enhance, _factor),
    "Posterize": Operation(TABLES, _bits, _quantum),
    "Contrast": Operation(TABLES, _enhance, _step(FACTOR, ABOUT_MEAN)),
    "Brightness": Operation(TABLES, _enhance, _step(FACTOR)),
    "Sharpness": Operation(SHARPNESS, _enhance, _factor),
    "ShearX": Operation(WARP, lambda strengths, ranges: strengths * ranges.shear, _shear_x),
    "ShearY": Operation(WARP, lambda strengths, ranges: strengths * ranges.shear, _shear_y),
    "TranslateX": Operation(WARP, lambda strengths, ranges: strengths * ranges.translate, _translate_x),
    "TranslateY": Operation(WARP, lambda strengths, ranges: strengths * ranges.translate, _translate_y),
}
