"""What a shipped file says of itself: the record of its checkpoint, and how it was exported, as one JSON text."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployment import DeploymentError

KEY = "litesort"  # the metadata key in exported files
FORMAT = 1
MEND = "export it again with python export.py ckpt=RUN/best.ckpt"


def pack(record: Mapping[str, Any]) -> str:
    """JSON text of a record of plain data; what is not a finite number becomes null."""
    return json.dumps(_finite(dict(record)), ensure_ascii=True, allow_nan=False)


def unpack(text: str | bytes | None, path: Path) -> dict[str, Any]:
    """Record of the file `path` from its metadata text.

    Raises:
        DeploymentError: There is none, it is damaged, or a newer litesort wrote it.
    """
    if not text:
        raise DeploymentError(f"ckpt={path} has no litesort metadata (classes, size, resize): {MEND}")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DeploymentError(f"ckpt={path} has damaged litesort metadata ({error}): {MEND}") from error
    version = record.get("exported", {}).get("format") if isinstance(record, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise DeploymentError(
            f"ckpt={path} has export format {version} and this litesort reads up to {FORMAT}: pip install -U litesort"
        )
    if version != FORMAT or not _whole(record):
        raise DeploymentError(f"ckpt={path} has incomplete litesort metadata: {MEND}")
    return record


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _whole(record: Mapping[str, Any]) -> bool:
    classes, preprocessing = record.get("classes"), record.get("preprocessing")
    return (
        isinstance(classes, list)
        and len(classes) > 1
        and all(isinstance(name, str) for name in classes)
        and isinstance(preprocessing, dict)
        and isinstance(preprocessing.get("size"), int)
        and 0 < preprocessing["size"] <= 1 << 14
        and preprocessing.get("resize") in ("pad", "squash", "crop")
        and all(isinstance(record.get(key), dict) for key in ("config", "model", "versions", "exported"))
    )
