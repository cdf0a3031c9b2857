"""Parity: compare the predictions of an exported file with those of its checkpoint."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from litesort.errors import DeploymentError


class Parity(NamedTuple):
    """Difference of two sets of predictions for the same images.

    Attributes:
        images: Number of images.
        difference: Largest absolute difference of a probability.
        agreement: Share of images with the same predicted class.
    """

    images: int
    difference: float
    agreement: float

    def __str__(self) -> str:
        return f"largest difference {self.difference:.2g}, same class on {self.agreement:.1%} of {self.images} images"


class Tolerance(NamedTuple):
    """Limits of a Parity.

    Attributes:
        difference: Largest allowed difference of a probability, in [0, 1]; None for no limit.
        agreement: Smallest allowed share of images with the same predicted class, in [0, 1].
    """

    difference: float | None
    agreement: float


def tolerances(difference: Mapping[str, float | None], agreement: Mapping[str, float]) -> dict[str, Tolerance]:
    """Return the tolerance of each precision, given the two limits by precision."""
    return {precision: Tolerance(difference[precision], agreement[precision]) for precision in agreement}


def compare(probabilities: np.ndarray, expected: np.ndarray) -> Parity:
    """Compare probabilities with the expected ones.

    Args:
        probabilities: (N, C) float, of the exported file; N above 0.
        expected: (N, C) float, of the checkpoint.

    Raises:
        DeploymentError: The shapes differ, there is no image, or a probability is not finite.
    """
    if probabilities.shape != expected.shape or not len(probabilities):
        raise DeploymentError(
            f"parity: expected probabilities of shape {expected.shape}, but got {probabilities.shape}"
        )
    if not np.isfinite(probabilities).all():
        raise DeploymentError("parity: the exported file returns values that are not finite")
    difference = float(np.abs(probabilities - expected).max())
    return Parity(len(probabilities), difference, float((probabilities.argmax(1) == expected.argmax(1)).mean()))


def check(found: Parity, tolerance: Tolerance, name: str) -> None:
    """Raise DeploymentError if `found` exceeds `tolerance`. The message has both values and `name`, the file name."""
    differs = tolerance.difference is not None and not found.difference <= tolerance.difference
    if differs or not found.agreement >= tolerance.agreement:
        limit = "any difference" if tolerance.difference is None else f"a difference of {tolerance.difference:g}"
        raise DeploymentError(
            f"{name} differs from the checkpoint: {found}; allowed are {limit} and {tolerance.agreement:.1%}: "
            "nothing was written"
        )
