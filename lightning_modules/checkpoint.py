"""Self-describing checkpoints. (Signatures first; the body follows.)"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.backbones import Backbone

RECORD = "litesort"
FORMAT = 1


def make_record(
    net: Backbone,
    classes: Sequence[str],
    *,
    class_counts: Sequence[int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Describe a network in plain data.

    {"format", "model": {name, num_classes, kwargs}, "origin", "classes", "class_counts", "preprocessing": {size, resize,
    mean, std}, "config", "pruning": [], "versions", **extra}
    """
    raise NotImplementedError


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a litesort checkpoint: {"state_dict", "litesort": record, ...}; ModelError if it is not one."""
    raise NotImplementedError


def build_net(checkpoint: Mapping[str, Any]) -> Backbone:
    """Rebuild the network of a read checkpoint, in eval mode; strict, and never downloads."""
    raise NotImplementedError
