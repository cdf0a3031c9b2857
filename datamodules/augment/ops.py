"""Names of the operations, and their parameters as table steps."""

from collections.abc import Sequence

import numpy as np

from datamodules.augment.draw_plan import (
    ABOUT_MEAN,
    AUTOCONTRAST,
    COLOR,
    EQUALIZE,
    FACTOR,
    IDENTITY_STEP,
    NONE,
    QUANTUM,
    SHARPNESS,
    STATISTIC,
    TABLES,
    THRESHOLD,
    WARP,
)
from litesort.errors import DataError

OPERATIONS = {
    "Identity": NONE, "AutoContrast": TABLES, "Equalize": TABLES, "Rotate": WARP, "Solarize": TABLES, "Color": COLOR,
    "Posterize": TABLES, "Contrast": TABLES, "Brightness": TABLES, "Sharpness": SHARPNESS,
    "ShearX": WARP, "ShearY": WARP, "TranslateX": WARP, "TranslateY": WARP,
}  # fmt: skip
CODES = {name: code for code, name in enumerate(OPERATIONS)}
KINDS = np.array(list(OPERATIONS.values()))
GEOMETRIES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
FACTORS = ("Color", "Contrast", "Brightness", "Sharpness")


def table_steps(codes: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Table steps of operations: codes, amounts (B, L) -> (B, L, 5) float64, with the columns of `draw_plan`."""
    steps = np.tile(np.array(IDENTITY_STEP), (*codes.shape, 1))
    for name, column, value in (
        ("AutoContrast", STATISTIC, AUTOCONTRAST),
        ("Equalize", STATISTIC, EQUALIZE),
        ("Solarize", THRESHOLD, amounts),
        ("Posterize", QUANTUM, 2.0 ** (8 - amounts)),
        ("Brightness", FACTOR, amounts),
        ("Contrast", FACTOR, amounts),
        ("Contrast", ABOUT_MEAN, 1.0),
    ):
        steps[..., column] = np.where(codes == CODES[name], value, steps[..., column])
    return steps


def operation_codes(ops: Sequence[str], num_ops: int) -> list[int]:
    """Return the codes of operations.

    Raises:
        DataError: A name is unknown, or `num_ops` is negative, or there are no operations to draw from.
    """
    unknown = [name for name in ops if name not in CODES]
    if unknown:
        raise DataError(f"augment.ops contains {unknown[0]}: expected names of {', '.join(OPERATIONS)}")
    if num_ops < 0 or (num_ops > 0 and not ops):
        raise DataError(
            f"augment.num_ops={num_ops} is invalid: expected an integer of at least 0, and 0 if augment.ops is empty"
        )
    return [CODES[name] for name in ops]
