"""Preprocessing: size and resize policy that turn an image file into the input of a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Size and resize policy of the images that a network takes.

    Attributes:
        size: Side of the square, px.
        resize: How an image becomes a square: "pad", "squash" or "crop".
    """

    size: int
    resize: str

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> "Preprocessing":
        """Read the preprocessing of a model card."""
        return cls(card["preprocessing"]["size"], card["preprocessing"]["resize"])
