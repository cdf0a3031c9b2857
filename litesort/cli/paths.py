"""Paths of the project."""

from pathlib import Path

CONF = Path(__file__).parents[2] / "conf"  # the folder of YAML files
