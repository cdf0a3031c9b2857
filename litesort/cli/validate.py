"""Is each value of the kind that the code it is meant for takes? Asked before anything is built or read."""

import pydoc
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Values that no class takes as they are: key -> whole numbers only, least, most.
RANGES: dict[str, tuple[bool, float, float]] = {
    "seed": (True, 0, 2**32 - 1),
    "epochs": (True, 1, float("inf")),
    "trainer.max_epochs": (True, 1, float("inf")),
    "target_accuracy": (False, 0, 1),
    "temperature": (False, 0.01, 100),
    "max_drop": (False, 0, 1),
    "calibration_images": (True, 1, float("inf")),
    "min_confidence": (False, 0, 1),
    "show": (True, 0, float("inf")),
    "mistakes": (True, 0, float("inf")),
    "max_images_per_class": (True, 0, float("inf")),
    "batch_size": (True, 1, float("inf")),
    "workers": (True, 1, float("inf")),
    "threads": (True, 1, float("inf")),
}
SWITCHES = ("overwrite",)  # values that are true or false
# What stands for a choice of our own, of a runtime's or of Lightning's.
FREE = {"temperature": "auto", "threads": None, "trainer.max_epochs": None}
NEEDED = ("checkpoint", "history")  # callbacks without which a run has no result
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def check(cfg: DictConfig) -> DictConfig:
    """Compare each value beside a `_target_` with the type hint of the parameter that it is for; returns the config.

    What has no hint, or one that no plain value can be held against, passes: the code itself looks at it.

    Raises:
        ModelError: A value of another kind, or out of the range of one that belongs to the run as a whole.
    """
    raw, values = (OmegaConf.to_container(cfg, resolve=resolve) for resolve in (False, True))
    for key, (whole, least, most) in RANGES.items():
        value = OmegaConf.select(cfg, key, default=...)  # ...: not a setting of this command
        if value in (..., FREE.get(key, ...)):
            continue
        if not (fits(value, int if whole else float) and least <= value <= most):
            limits = f"from {least} to {most}" if most < float("inf") else f"{least} or more"
            raise _refusal(key, value, f"{KINDS[int if whole else float]}, {limits}")
    for key in SWITCHES:
        if key in cfg and not fits(cfg[key], bool):
            raise _refusal(key, cfg[key], KINDS[bool])
    there = [name for name, entry in (cfg.get("callbacks") or {}).items() if entry is not None]
    missing = [name for name in NEEDED if "callbacks" in cfg and name not in there]
    if missing:
        raise _refusal("callbacks", f"[{','.join(there)}]", f"{' and '.join(missing)} too, as default does")
    if cfg.get("teacher") and "teacher" not in (cfg.get("objective") or {}):
        raise _no_teacher(cfg.teacher)
    _named("callbacks", cfg.get("callbacks"))
    _named("logger", cfg.get("logger"))
    _walk(raw, values, "")
    return cfg


def check_values(values: dict[str, Any], path: str) -> None:
    """Compare plain values beside a `_target_` with its type hints, as `check` does.

    Args:
        values: The target is imported: it must be one that may be.
        path: What the names of their keys start with.
    """
    _walk(values, values, path)


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value can be what a type hint asks for.

    >>> fits(3, float), fits("3", float), fits(None, int | None), fits([1, 0.5], list[int])
    (True, False, True, False)
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in inner)
    if origin is typing.Literal:
        return any(value == part and type(value) is type(part) for part in inner)
    if hint in (None, type(None)):
        return value is None
    if hint in (bool, int):
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    if hint in (str, Path):
        return isinstance(value, str)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list) and all(fits(part, inner[0]) for part in value)
    return True


def describe(hint: Any) -> str:
    """Say in words what a type hint asks for."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in inner))
    if origin is typing.Literal:
        return " or ".join(str(part) for part in inner)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {describe(inner[0])}"
    return "null" if hint in (None, type(None)) else KINDS.get(hint, getattr(hint, "__name__", str(hint)))


def _named(group: str, entries: Any) -> None:
    """Refuse settings of something that the group's list leaves out: it would be built as a bare dict."""
    from litesort.errors import ModelError

    settings = {name: entry for name, entry in (entries or {}).items() if entry is not None}
    targets = [name for name, entry in settings.items() if "_target_" in entry]
    for name in settings:
        if targets and name not in targets:
            hint = f"give {group}=[...,{name}], or {group}.{name}=null"
            raise ModelError(f"{group}.{name} is set, but {group} does not name it: {hint}")


def _walk(raw: Any, values: Any, path: str) -> None:
    if not isinstance(raw, dict):
        return
    hints = _hints(values.get("_target_"))
    for key, value in values.items():
        link = re.fullmatch(r"\$\{([\w.]+)\}", raw[key]) if isinstance(raw[key], str) else None
        name = link[1] if link else f"{path}{key}"  # the user's own key, where the value comes from another place
        if key in hints and value != "???" and not fits(value, hints[key]):
            raise _refusal(name, value, describe(hints[key]))
        _walk(raw[key], value, f"{path}{key}.")


def _hints(target: Any) -> dict[str, Any]:
    """Type hints of what a `_target_` is called with; those that it hands on to its bases included."""
    found = pydoc.locate(target) if isinstance(target, str) else None
    hints: dict[str, Any] = {}
    calls = [vars(base).get("__init__") for base in reversed(found.__mro__)] if isinstance(found, type) else [found]
    for call in calls:
        try:
            hints |= typing.get_type_hints(call)
        except (NameError, TypeError):  # a hint that only the type checker can read, or nothing that is called
            continue
    return hints


def _no_teacher(teacher: Any) -> Exception:
    from litesort.errors import ModelError

    choices = "distill_logit, distill_decoupled, distill_dist or distill_feature"
    return ModelError(
        f"teacher={teacher} does nothing with this objective: choose objective={choices}, or leave teacher out"
    )


def _refusal(key: str, value: Any, wanted: str) -> Exception:
    from litesort.errors import ModelError

    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    quoted = f", e.g. {key}='\"{shown}\"'" if isinstance(value, int | float) and KINDS[str] in wanted else ""
    return ModelError(f"{key}={shown} is of no use: give {wanted}{quoted}")
