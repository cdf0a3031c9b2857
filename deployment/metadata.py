"""Metadata of exported files: the card of the checkpoint, and how the file was exported, as JSON text."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litesort.errors import DeploymentError
from litesort.model_card import card_error
from litesort.plain_data import parse_json

KEY = "litesort"  # the metadata key in exported files
FORMAT = 1
HINT = "export it again with python export.py ckpt=RUN/best.ckpt"


def pack(card: Mapping[str, Any]) -> str:
    """Return the JSON text of a card. Numbers that are not finite become null."""
    return json.dumps(_finite(dict(card)), ensure_ascii=True, allow_nan=False)


def extend(card: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card with more values under "exported"."""
    return {**card, "exported": {**card["exported"], **values}}


def unpack(text: str | bytes | None, path: Path) -> dict[str, Any]:
    """Read the card of the file `path` from its metadata text.

    Raises:
        DeploymentError: The text is missing or damaged, or a newer litesort wrote it.
    """
    if not text:
        raise DeploymentError(f"ckpt={path} has no litesort metadata (classes, size, resize): {HINT}")
    try:
        card = parse_json(text)
    except ValueError as error:
        raise DeploymentError(f"ckpt={path} has damaged litesort metadata ({error}): {HINT}") from error
    exported = card.get("exported") if isinstance(card, dict) else None
    version = exported.get("format") if isinstance(exported, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise DeploymentError(
            f"ckpt={path} has export format {version} and this litesort reads up to {FORMAT}: pip install -U litesort"
        )
    reason = (
        card_error(card, complete=True) or _threshold_error(exported) if version == FORMAT else "exported is missing"
    )
    if reason:
        raise DeploymentError(f"ckpt={path} has incomplete litesort metadata ({reason}): {HINT}")
    return card


def _threshold_error(exported: Any) -> str | None:
    """Return what is wrong with the rejection threshold of a file; None if there is none, or it is valid."""
    if exported.get("threshold") is None:
        return None
    for key in ("threshold", "threshold_target"):
        value = exported.get(key)
        if not (type(value) in (int, float) and 0 <= value <= 1):
            return f"exported.{key} is not a number from 0 to 1"
    return None


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
