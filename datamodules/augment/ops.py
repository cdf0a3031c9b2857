"""The names of the operations, and what each does to a table."""

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
    """What each operation does to a table: codes, amounts (B, L) -> (B, L, 5) float64, columns of `augment_draws`."""
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
    """Check names of operations and look up their codes."""
    unknown = [name for name in ops if name not in CODES]
    if unknown:
        raise DataError(f"augment.ops names {unknown[0]}, which is none of {', '.join(OPERATIONS)}")
    if num_ops < 0 or (num_ops > 0 and not ops):
        raise DataError(
            f"augment.num_ops={num_ops} cannot be drawn from {len(ops)} operations: give 0 or name augment.ops"
        )
    return [CODES[name] for name in ops]
