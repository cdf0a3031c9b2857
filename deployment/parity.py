"""Proof that a file computes what its checkpoint computes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from litesort.errors import DeploymentError


class Parity(NamedTuple):
    """How far two sets of answers to the same photos lie apart.

    Attributes:
        photos: How many.
        difference: Largest absolute difference of a probability.
        agreement: Share of photos with the same class on top.
    """

    photos: int
    difference: float
    agreement: float

    def __str__(self) -> str:
        return f"largest difference {self.difference:.2g}, same class on {self.agreement:.1%} of {self.photos} photos"


class Tolerance(NamedTuple):
    """What still passes: `difference` at most (None: any), and `agreement` at least, of a Parity."""

    difference: float | None
    agreement: float


def tolerances(difference: Mapping[str, float | None], agreement: Mapping[str, float]) -> dict[str, Tolerance]:
    """Tolerance of each precision, from one mapping of each limit."""
    return {precision: Tolerance(difference[precision], agreement[precision]) for precision in agreement}


def compare(answers: np.ndarray, expected: np.ndarray) -> Parity:
    """Compare probabilities (N, C) with those expected; DeploymentError where shapes differ or one is not a number."""
    if answers.shape != expected.shape or not len(answers):
        raise DeploymentError(f"parity: expected answers of shape {expected.shape}, but got {answers.shape}")
    if not np.isfinite(answers).all():
        raise DeploymentError("parity: the exported file answers with values that are not numbers")
    difference = float(np.abs(answers - expected).max())
    return Parity(len(answers), difference, float((answers.argmax(1) == expected.argmax(1)).mean()))


def check(found: Parity, tolerance: Tolerance, name: str) -> None:
    """Raise DeploymentError, with both numbers, where the answers lie further apart than the tolerance."""
    too_far = tolerance.difference is not None and not found.difference <= tolerance.difference
    if too_far or not found.agreement >= tolerance.agreement:
        limit = "any difference" if tolerance.difference is None else f"a difference of {tolerance.difference:g}"
        raise DeploymentError(
            f"{name} does not compute what the checkpoint does: {found}; {limit} and {tolerance.agreement:.1%} would "
            "pass: nothing was written"
        )
