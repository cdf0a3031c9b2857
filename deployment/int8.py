"""Shared parts of the int8 quantisers: the first layers that stay in float, and the check of the result."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deployment.formats.base import F1Of, Predictor
from deployment.metadata import extend
from deployment.placing import Verify
from litesort.errors import DeploymentError

# Numbers of first layers that return to float before the search: the stem of a mobile network, then its first block.
FIRST = (1, 3)
SLACK = 1e-9  # 0.9 - 0.89 is a little more than 0.01


def first_layers(layers: Mapping[str, Any], count: int) -> list[str]:
    """Return the first `count` layers, but never all."""
    return list(layers)[: min(count, len(layers) - 1)]


def describe_int8(card: Mapping[str, Any], float_layers: Sequence[str]) -> dict[str, Any]:
    """Return the card of an int8 file, from the card of its float file."""
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
    """Return a check that measures the F1 of the written file, since a search may stop early without an error.

    Args:
        path: The final name, for messages.
        load: Opens a file.
        f1_of: Macro F1 of a predictor; None: only `verify` is called.
        reference: Macro F1 of the float file.
        max_drop: Macro F1 that may be lost.
        layers: Number of layers in float, for messages.
        verify: The caller's own check.
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
    """Silence the log and the warnings of the quantisers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
