"""Batches teach a network."""

from litesort.errors import ModelError

__all__ = ["ModelError"]
