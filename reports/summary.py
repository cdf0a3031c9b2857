"""One run's result on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console


def print_summary(metrics: Mapping[str, Any], files: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print metrics.json as a table, then the files."""
    raise NotImplementedError
