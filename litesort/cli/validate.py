"""Check the values of a config against type hints and ranges, before anything is built."""

import importlib
import json
import pydoc
import re
import sys
import types
import typing
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from litesort.errors import ModelError
from litesort.settings import dataclass_parameters

# Key -> whether it is an integer, its minimum and its maximum; for values that no type hint describes.
RANGES: dict[str, tuple[bool, float, float]] = {
    "seed": (True, 0, 2**32 - 1),
    "epochs": (True, 1, float("inf")),
    "trainer.max_epochs": (True, 1, float("inf")),
    "target_accuracy": (False, 0, 1),
    "target_confidence": (False, 0, 1),
    "temperature": (False, 0.01, 100),
    "max_drop": (False, 0, 1),
    "calibration_images": (True, 1, float("inf")),
    "min_confidence": (False, 0, 1),
    "show": (True, 0, float("inf")),
    "mistakes": (True, 0, float("inf")),
    "heat_maps": (True, 0, float("inf")),
    "max_images_per_class": (True, 0, float("inf")),
    "batch_size": (True, 1, float("inf")),
    "workers": (True, 1, float("inf")),
    "threads": (True, 1, float("inf")),
}
SWITCHES = ("overwrite", "strict", "resume")  # booleans that no type hint describes
# Key -> the value that leaves the choice to litesort, the runtime or Lightning.
AUTOMATIC = {
    "temperature": "auto",
    "min_confidence": "auto",
    "threads": None,
    "trainer.max_epochs": None,
    "trainer.precision": "auto",
}
REQUIRED_CALLBACKS = ("checkpoint", "history")  # callbacks that every training needs
KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}


def check(cfg: DictConfig) -> DictConfig:
    """Compare each value beside a `_target_` with the type hint of its parameter; returns the config.

    Parameters without a hint are not checked, nor are values that are built from a `_target_`.

    Raises:
        ModelError: A value has another type than its hint, or is out of its range.
    """
    _import_modules(cfg.get("imports"))
    raw, values = (OmegaConf.to_container(cfg, resolve=resolve) for resolve in (False, True))
    for key, (is_integer, low, high) in RANGES.items():
        value = OmegaConf.select(cfg, key, default=...)  # ...: this command has no such setting
        if value in (..., AUTOMATIC.get(key, ...)):
            continue
        if not (fits(value, int if is_integer else float) and low <= value <= high):
            limits = f"from {low} to {high}" if high < float("inf") else f"of at least {low}"
            automatic = f" or {_shown(AUTOMATIC[key])}" if key in AUTOMATIC else ""
            raise _refusal(key, value, f"{KINDS[int if is_integer else float]} {limits}{automatic}")
    for key in SWITCHES:
        if key in cfg and not fits(cfg[key], bool):
            raise _refusal(key, cfg[key], KINDS[bool])
    enabled = [name for name, entry in (cfg.get("callbacks") or {}).items() if entry is not None]
    missing = [name for name in REQUIRED_CALLBACKS if "callbacks" in cfg and name not in enabled]
    if missing:
        raise _refusal("callbacks", f"[{','.join(enabled)}]", f"{' and '.join(missing)} too, as in default")
    if cfg.get("teacher") and "teacher" not in (cfg.get("objective") or {}):
        raise _no_teacher(cfg.teacher)
    _check_listed("callbacks", cfg.get("callbacks"))
    _check_listed("logger", cfg.get("logger"))
    _walk(raw, values, "")
    _check_read(raw, values)
    return cfg


def _import_modules(names: Any) -> None:
    """Import the modules that `imports` lists, such as one that registers a timm model."""
    names = [] if names is None else OmegaConf.to_container(names) if OmegaConf.is_config(names) else names
    if not fits(names, list[str]):
        raise _refusal("imports", names, "a list of modules")
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ModelError(f"imports={name} is invalid: {error}: add its folder to PYTHONPATH") from error


def check_values(values: dict[str, Any], path: str) -> None:
    """Compare plain values beside a `_target_` with its type hints, as `check` does.

    Args:
        values: Plain data. Targets are imported, so they must be trusted.
        path: Prefix of the keys in messages.
    """
    _walk(values, values, path)


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value matches a type hint, without conversion. A value with a `_target_` always does.

    >>> fits(3, float), fits("3", float), fits(None, int | None), fits([1, 0.5], list[int])
    (True, False, True, False)
    """
    from pydantic import ValidationError

    if _holds_target(value):
        return True  # `_walk` compares the parameters of the target
    try:
        _adapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


def _holds_target(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_holds_target, value.values()))
    return isinstance(value, list) and any(map(_holds_target, value))


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(hint, config={"arbitrary_types_allowed": True})
    except PydanticUserError:  # a dataclass or a model has a config of its own
        return TypeAdapter(hint)


def describe(hint: Any) -> str:
    """Describe a type hint in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in inner))
    if origin is typing.Literal:
        return " or ".join(str(part) for part in inner)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {describe(inner[0])}"
    return "null" if hint in (None, type(None)) else KINDS.get(hint, getattr(hint, "__name__", str(hint)))


def _check_listed(group: str, entries: Any) -> None:
    """Refuse settings of an entry that is not in the list of its group; such an entry has no `_target_`."""
    settings = {name: entry for name, entry in (entries or {}).items() if entry is not None}
    targets = [name for name, entry in settings.items() if "_target_" in entry]
    for name in settings:
        if targets and name not in targets:
            hint = f"give {group}=[...,{name}], or {group}.{name}=null"
            raise ModelError(f"{group}.{name} is set, but {group} does not include it: {hint}")


def _check_read(raw: Any, values: Any) -> None:
    """Refuse `data.root` or `data.file` if the source does not read it."""
    data = values.get("data") or {}
    for key in ("root", "file"):
        if data.get(key) is None or "source" not in data:
            continue
        # In the config of an export after training, references are resolved.
        if f"${{data.{key}}}" not in str(raw["data"]["source"]) and data[key] not in (data["source"] or {}).values():
            name = str((data["source"] or {}).get("_target_")).rpartition(".")[2]
            raise ModelError(f"data.{key}={data[key]} is not read by {name}: leave it out, or choose another data=...")


def _walk(raw: Any, values: Any, path: str) -> None:
    if not isinstance(raw, dict):
        return
    hints = _hints(values.get("_target_"))
    for key, value in values.items():
        reference = re.fullmatch(r"\$\{([\w.]+)\}", raw[key]) if isinstance(raw[key], str) else None
        name = reference[1] if reference else f"{path}{key}"  # the key that the user sets, if the value refers to it
        if key in hints and value not in ("???", AUTOMATIC.get(name, "???")) and not fits(value, hints[key]):
            raise _refusal(name, value, describe(hints[key]))
        _walk(raw[key], value, f"{path}{key}.")


def _hints(target: Any) -> dict[str, Any]:
    """Return the type hints of the parameters of a `_target_`, with those of its base classes."""
    module, _, name = str(target).rpartition(".")
    loaded = getattr(sys.modules.get(module), name, None)  # Hydra's plugins are not attributes of their package
    found = loaded or (pydoc.locate(target) if isinstance(target, str) else None)
    hints: dict[str, Any] = {}
    calls = [vars(base).get("__init__") for base in reversed(found.__mro__)] if isinstance(found, type) else [found]
    for call in calls:
        try:
            hints |= typing.get_type_hints(call)
            for group in dataclass_parameters(call).values():  # a user sets their fields beside the other parameters
                hints |= typing.get_type_hints(group)
        except (NameError, TypeError):  # a hint for type checkers only, or an object that is not callable
            continue
    return hints


def _no_teacher(teacher: Any) -> Exception:
    choices = "distill_logit, distill_decoupled, distill_dist or distill_feature"
    return ModelError(
        f"teacher={teacher} does nothing with this objective: choose objective={choices}, or leave teacher out"
    )


def _refusal(key: str, value: Any, wanted: str) -> Exception:
    shown = _shown(value)
    quoted = f", e.g. {key}='\"{shown}\"'" if isinstance(value, int | float) and KINDS[str] in wanted else ""
    return ModelError(f"{key}={shown} is invalid: expected {wanted}{quoted}")


def _shown(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
