"""Group flat settings into the dataclasses that a class takes."""

import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def dataclass_parameters(target: Any) -> dict[str, type]:
    """Return the parameters of a callable, or of a class, whose type hint is a dataclass."""
    call = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    hints = typing.get_type_hints(call)
    return {name: hint for name, hint in hints.items() if is_dataclass(hint) and isinstance(hint, type)}


def group_settings(target: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a callable from flat settings; fields of its dataclass parameters are grouped.

    A user sets `fold=0`, and the callable takes `split: SplitConfig`, which has the field `fold`.

    Args:
        target: Callable with dataclass parameters. Two of them must not share a field name.
        settings: Field or parameter name -> value. Fields that are not set keep their defaults.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Split:
    ...     fold: int | None = None
    >>> def load(root: str, split: Split): ...
    >>> group_settings(load, {"root": "images", "fold": 0})
    {'root': 'images', 'split': Split(fold=0)}
    """
    ungrouped, groups = dict(settings), {}
    for name, kind in dataclass_parameters(target).items():
        given = {field.name: ungrouped.pop(field.name) for field in fields(kind) if field.name in ungrouped}
        groups[name] = kind(**given)
    return ungrouped | groups
