"""A tiny network and tiny images, trained by a real Trainer."""

from tiny_training import data, make_module, make_trainer

__all__ = ["data", "make_module", "make_trainer"]
