"""Shared parts of the int8 quantisers: the first layers that stay in float, and the check of the result."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deployment.formats.base import F1Of, Predictor
from deployment.metadata import extend
from deployment.verified_write import Verify
from litesort.errors import DeploymentError

# Before the search, this many first layers return to float: the stem of a mobile network, then also its first block.
FIRST = (1, 3)
SLACK = 1e-9  # for rounding: 0.9 - 0.89 is slightly above 0.01


def first_layers(layers: Mapping[str, Any], count: int) -> list[str]:
    """Return the names of the first `count` layers, at most all but one."""
    return list(layers)[: min(count, len(layers) - 1)]


def describe_int8(card: Mapping[str, Any], float_layers: Sequence[str]) -> dict[str, Any]:
    """Return the card of an int8 file, given the card of its float file."""
    return extend(card, {"precision": "int8", "float_layers": list(float_layers)})


def check_written(
    path: Path,
    load: Callable[[Path], Predictor],
    f1_of: F1Of | None,
    reference: float | None,
    max_drop: float,
    layers: int,
    verify: Verify | None,
) -> Verify:
    """Return a function that checks the macro F1 of a written file.

    The search for float layers may stop early without an error, so its result is checked again.

    Args:
        path: The final name, for messages.
        load: Opens a file.
        f1_of: Maps a predictor to its macro F1, in [0, 1]. With None, only `verify` is called.
        reference: Macro F1 of the float file, in [0, 1].
        max_drop: Largest allowed loss of macro F1.
        layers: Number of layers in float, for messages.
        verify: Further check, called last.

    Returns:
        The function. It raises DeploymentError if the file loses more than `max_drop`.
    """

    def check(draft: Path) -> None:
        if f1_of is not None and reference is not None and (lost := reference - f1_of(load(draft))) > max_drop + SLACK:
            raise too_much_lost(path, lost, max_drop, layers)
        if verify is not None:
            verify(draft)

    return check


def too_much_lost(path: Path, lost: float, max_drop: float, layers: int) -> DeploymentError:
    """Return the error for an int8 file that loses more than `max_drop` macro F1."""
    return DeploymentError(
        f"{path.name}: int8 loses {lost:.4f} macro F1 with {layers} layers in float, and max_drop={max_drop:g}: "
        "nothing was written: take fp32 or fp16, or raise max_drop"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress log messages and warnings of the quantisers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
