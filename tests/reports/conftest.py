"""Fixture `make_module`: a classifier with a tiny network."""

from tiny_training import make_module

__all__ = ["make_module"]
