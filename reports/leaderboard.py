"""Rows of runs -> one ranking: on the terminal, as CSV, JSON, Markdown and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

Row = dict[str, Any]


def gather(folder: Path) -> list[Row]:
    """Read every metrics.json below a folder."""
    raise NotImplementedError


def rank(rows: Sequence[Row]) -> list[Row]:
    """Best first."""
    raise NotImplementedError


def group_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row a config."""
    raise NotImplementedError


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the ranking."""
    raise NotImplementedError


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write leaderboard.csv, .json, .md and .png."""
    raise NotImplementedError
